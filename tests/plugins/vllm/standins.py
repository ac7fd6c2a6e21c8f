"""Stand-ins that let a CPU run what vLLM runs on GPUs by default. They prove the order of calls,
not the order of streams.
"""

from __future__ import annotations

import contextlib
import types
from typing import Any, Self

import torch


class Event:
    """An event of a device whose work is always done."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def synchronize(self) -> None: ...

    def wait(self, *_: Any) -> None: ...

    def query(self) -> bool:
        return True


class Stream:
    """A stream of such a device."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = torch.device("cpu")

    def wait_stream(self, _: Any) -> None: ...

    def wait_event(self, _: Any) -> None: ...

    def synchronize(self) -> None: ...

    def record_event(self, *_: Any) -> Event:
        return Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def asynchronous() -> None:
    """Switch asynchronous scheduling on, which vLLM switches off on CPUs."""
    from vllm.platforms.cpu import CpuPlatform

    torch.cuda.Event = torch.Event = Event
    torch.cuda.Stream = Stream
    torch.cuda.current_stream = torch.cuda.default_stream = lambda *_, **__: Stream()
    torch.cuda.stream = lambda _: contextlib.nullcontext()
    plain = CpuPlatform.check_and_update_config.__func__

    def check(cls: Any, config: Any) -> None:
        plain(cls, config)
        config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(check)


def second_runner() -> None:
    """Have Triton's kernels, which the second runner needs, run by Triton's interpreter."""
    import triton.backends

    driver = type("Driver", (), {"is_active": staticmethod(lambda: True)})
    triton.backends.backends["cpu"] = types.SimpleNamespace(driver=driver, compiler=None)
    torch.cuda.is_available = lambda: False


def torch_sampler() -> None:
    """Have top-k sampled in PyTorch: Triton's interpreter cannot run vLLM's kernel for it."""
    from vllm.v1.sample.ops import topk_topp_sampler

    topk_topp_sampler.HAS_TRITON = False


def ray_cluster() -> None:
    """Start Ray on this machine with a GPU that is none: vLLM asks Ray for one a worker."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        runtime_env={"worker_process_setup_hook": name_ray_device},
        _node_ip_address="127.0.0.1",
    )
    name_ray_device()


def name_ray_device() -> None:
    """Have vLLM look for that GPU, in this process."""
    from vllm.platforms.cpu import CpuPlatform

    CpuPlatform.ray_device_key = "GPU"
