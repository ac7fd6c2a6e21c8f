"""Everything that touches native memory or symbols: the only file of the plug-in with ctypes.

llama-cpp-python binds llama.h; what is missing there is bound here: the layer-input read, tensors
inside the evaluation callback, and the C reader of GGUF files.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np
from llama_cpp import _ggml
from llama_cpp import llama_cpp as bindings

from emoguard.errors import EmoGuardError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Callback = Callable[[int, bool], bool]

SET_LAYER_INPUT = (
    "llama_set_embeddings_layer_inp",
    "_Z30llama_set_embeddings_layer_inpP13llama_contextjb",
    "?llama_set_embeddings_layer_inp@@YAXPEAUllama_context@@I_N@Z",
)
GET_LAYER_INPUT = (
    "llama_get_embeddings_layer_inp",
    "_Z30llama_get_embeddings_layer_inpP13llama_contextj",
    "?llama_get_embeddings_layer_inp@@YAPEAMPEAUllama_context@@I@Z",
)
"""C name, Itanium and MSVC manglings: the functions are declared in a C++ header."""

GGML_OBJECT_BYTES = 32
FLOAT32 = 0
"""GGML_TYPE_F32."""


class Tensor(ctypes.Structure):
    """`struct ggml_tensor`; `check_layout` compares it with the loaded library."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


def _symbol(*names: str) -> Any:
    """Return the first of `names` that the loaded libraries export, None without any."""
    for library in (bindings._lib, _ggml.libggml):  # noqa: SLF001
        for name in names:
            if hasattr(library, name):
                return getattr(library, name)
    return None


def _bind(restype: Any, argtypes: tuple[Any, ...], *names: str) -> Any:
    function = _symbol(*names)
    if function is None:
        raise EmoGuardError(
            f"llama-cpp-python {llama_cpp.__version__} does not export {names[0]}: "
            "install a version of llama-cpp-python that EmoGuard lists in its README"
        )
    # A fresh function object: the library's own is shared with everybody who asks for it.
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    return ctypes.CFUNCTYPE(restype, *argtypes)(address)


@functools.cache
def check_layout() -> None:
    """Compare `Tensor` with the library, once, before any tensor is looked at.

    Raises:
        EmoGuardError: the library lays tensors out differently.

    """
    tensor = Tensor(type=FLOAT32, ne=(3, 5, 1, 1), nb=(4, 12, 60, 60), data=64)
    pointer = ctypes.byref(tensor)
    name_at = ctypes.addressof(tensor) + Tensor.name.offset
    found = (
        _bind(ctypes.c_int64, (ctypes.c_void_p,), "ggml_nelements")(pointer),
        _bind(ctypes.c_size_t, (ctypes.c_void_p,), "ggml_nbytes")(pointer),
        _bind(ctypes.c_void_p, (ctypes.c_void_p,), "ggml_get_data")(pointer),
        _bind(ctypes.c_void_p, (ctypes.c_void_p,), "ggml_get_name")(pointer),
        _bind(ctypes.c_size_t, (), "ggml_tensor_overhead")(),
    )
    wanted = (15, 60, 64, name_at, ctypes.sizeof(Tensor) + GGML_OBJECT_BYTES)
    if found != wanted:
        raise EmoGuardError(
            f"llama-cpp-python {llama_cpp.__version__} lays tensors out in an unknown way: "
            "reading through the callback is not possible with this version; install a version "
            "that EmoGuard lists in its README"
        )


def has_layer_input() -> bool:
    """Return whether the library exports the native read."""
    return _symbol(*SET_LAYER_INPUT) is not None and _symbol(*GET_LAYER_INPUT) is not None


@functools.cache
def _layer_input() -> tuple[Any, Any]:
    context, layer = ctypes.c_void_p, ctypes.c_uint32
    return (
        _bind(None, (context, layer, ctypes.c_bool), *SET_LAYER_INPUT),
        _bind(ctypes.c_void_p, (context, layer), *GET_LAYER_INPUT),
    )


def keep_layer_input(context: Any, layer: int, *, on: bool) -> None:
    """Switch the copy of what block `layer` receives on or off in a live context."""
    _layer_input()[0](context, layer, on)


def layer_input(context: Any, layer: int, rows: int, hidden: int) -> NDArray[np.float32]:
    """Return a copy of what block `layer` received in the last decode, float32 (rows, hidden)."""
    address = _layer_input()[1](context, layer)
    if not address:
        raise EmoGuardError(f"llama.cpp kept no input of block {layer}: nothing was decoded yet")
    out = np.empty((rows, hidden), np.float32)
    ctypes.memmove(out.ctypes.data, address, out.nbytes)
    return out


def make_callback(function: Callback) -> Any:
    """Return `function(tensor address, ask)` as a `cb_eval`; keep the result alive."""
    return bindings.ggml_backend_sched_eval_callback(lambda tensor, ask, _: function(tensor, ask))


def tensor_name(address: int) -> bytes:
    """Return the name of the tensor at `address`."""
    return ctypes.string_at(address + Tensor.name.offset)


@functools.cache
def _tensor_get() -> Any:
    arguments = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
    return _bind(None, arguments, "ggml_backend_tensor_get")


def tensor_rows(address: int, hidden: int, *, last: bool = False) -> NDArray[np.float32]:
    """Return the rows of the float32 tensor at `address`, wherever it lives, (rows, hidden).

    `last` copies the last row only.
    """
    tensor = Tensor.from_address(address)
    rows = tensor.ne[1]
    if tensor.type != FLOAT32 or tensor.ne[0] != hidden or tensor.nb[1] != 4 * hidden:
        raise EmoGuardError(
            f"{tensor.name.decode(errors='replace')} must be float32 of width {hidden}, got type "
            f"{tensor.type} of width {tensor.ne[0]}: this architecture cannot be read"
        )
    first = rows - 1 if last else 0
    out = np.empty((rows - first, hidden), np.float32)
    _tensor_get()(address, out.ctypes.data, first * 4 * hidden, out.nbytes)
    return out


@dataclass(frozen=True)
class TensorData:
    """Where one tensor's bytes lie in a GGUF file."""

    name: str
    type: int
    start: int
    size: int


@contextmanager
def open_gguf(path: Path) -> Iterator[Any]:
    """Open a GGUF file's header with ggml's own reader; yields its context."""

    class Parameters(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))

    start = _bind(ctypes.c_void_p, (ctypes.c_char_p, Parameters), "gguf_init_from_file")
    header = start(str(path).encode(), Parameters(no_alloc=True, context=None))
    if not header:
        raise EmoGuardError(f"{path.name} is no GGUF file that llama.cpp can read")
    try:
        yield header
    finally:
        _bind(None, (ctypes.c_void_p,), "gguf_free")(header)


def gguf_tensors(path: Path) -> list[TensorData]:
    """Return name, type, offset and size in bytes of every tensor in a GGUF file."""
    number, index = ctypes.c_int64, (ctypes.c_void_p, ctypes.c_int64)
    count = _bind(number, (ctypes.c_void_p,), "gguf_get_n_tensors")
    data = _bind(ctypes.c_size_t, (ctypes.c_void_p,), "gguf_get_data_offset")
    name = _bind(ctypes.c_char_p, index, "gguf_get_tensor_name")
    kind = _bind(ctypes.c_int, index, "gguf_get_tensor_type")
    offset = _bind(ctypes.c_size_t, index, "gguf_get_tensor_offset")
    size = _bind(ctypes.c_size_t, index, "gguf_get_tensor_size")
    with open_gguf(path) as header:
        base = data(header)
        return [
            TensorData(
                name(header, i).decode(),
                kind(header, i),
                base + offset(header, i),
                size(header, i),
            )
            for i in range(count(header))
        ]


@contextmanager
def own_context(
    llm: Any, tokens: int, chunk: int, callback: Callback | None = None
) -> Iterator[Any]:
    """Make a second context on `llm`'s weights, with its settings and LoRA; free it at the end.

    It holds `tokens` tokens and takes at most `chunk` per pass.
    """
    params = copy_params(llm.context_params)
    params.n_ctx = max(tokens, 32)
    params.n_batch = params.n_ubatch = min(params.n_ctx, chunk)
    # One text from its beginning needs no more than the window; saves llama.cpp a warning, too.
    params.swa_full = False
    if callback is not None:
        check_layout()
        params.cb_eval = make_callback(callback)
    context = bindings.llama_init_from_model(llm.model, params)
    if context is None:
        raise EmoGuardError(
            f"llama.cpp could not make a context for {tokens} tokens: out of memory"
        )
    try:
        apply_lora(llm, context)
        yield context
    finally:
        bindings.llama_free(context)


def copy_params(params: Any) -> Any:
    """Return a copy of context parameters that can be changed without changing the original."""
    return bindings.llama_context_params.from_buffer_copy(params)


def apply_lora(llm: Any, context: Any) -> None:
    """Give `context` the LoRA adapter, with its scale, that `llm` was loaded with."""
    if llm._lora_adapter is None:  # noqa: SLF001
        return
    adapters = (bindings.llama_adapter_lora_p_ctypes * 1)(llm._lora_adapter)  # noqa: SLF001
    scales = (ctypes.c_float * 1)(llm.lora_scale)
    if bindings.llama_set_adapters_lora(context, adapters, 1, scales):
        raise EmoGuardError(f"llama.cpp could not apply the LoRA adapter {llm.lora_path} again")


def decode(context: Any, tokens: list[int]) -> None:
    """Run `tokens` after what `context` already holds; only the last one gets logits."""
    array = (bindings.llama_token * len(tokens))(*tokens)
    code = bindings.llama_decode(context, bindings.llama_batch_get_one(array, len(tokens)))
    if code:
        raise EmoGuardError(
            f"llama.cpp could not run {len(tokens)} tokens: llama_decode gave {code}"
        )
