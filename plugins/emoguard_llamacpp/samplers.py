"""Draws tokens with llama.cpp's own samplers, in any context."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_cpp import Llama
from llama_cpp import llama_cpp as bindings

DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(Llama.generate).parameters.items()
}
"""The defaults of `Llama.generate`, with which the answer to a single prompt is drawn."""


@contextmanager
def samplers(temperature: float, seeds: Sequence[int]) -> Iterator[list[Any]]:
    """Make a sampler for each seed, with the defaults of `Llama.generate`; free them at the end.

    Temperature 0 takes the likeliest token.
    """
    chains: list[Any] = []
    try:
        for seed in seeds:
            chains.append(
                bindings.llama_sampler_chain_init(bindings.llama_sampler_chain_default_params())
            )
            for part in _sampling(temperature, seed):
                bindings.llama_sampler_chain_add(chains[-1], part)
        yield chains
    finally:
        for chain in chains:
            bindings.llama_sampler_free(chain)


def _sampling(temperature: float, seed: int) -> list[Any]:
    if temperature == 0:
        return [bindings.llama_sampler_init_greedy()]
    return [
        bindings.llama_sampler_init_top_k(DEFAULTS["top_k"]),
        bindings.llama_sampler_init_top_p(DEFAULTS["top_p"], 1),
        bindings.llama_sampler_init_min_p(DEFAULTS["min_p"], 1),
        bindings.llama_sampler_init_temp(temperature),
        bindings.llama_sampler_init_dist(seed),
    ]


def sample(sampler: Any, context: Any, row: int) -> int:
    """Choose a token from the logits of row number `row` of the last pass."""
    return int(bindings.llama_sampler_sample(sampler, context, row))
