"""Every stand-in by name, reduced to the steps that the cost model prices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from cost_calibration import written
from cost_calibration.tape import Tape
from optimum_ane.analysis.anchors import Workload
from optimum_ane.analysis.cost import device_changes
from optimum_ane.analysis.operations import Program
from optimum_ane.analysis.partition import partition
from optimum_ane.analysis.residency import place
from optimum_ane.analysis.workload import Step, read_steps, tally

LENGTHS = (32, 64, 128, 256, 512)
_OFF_IN_2022 = frozenset(("equal", "tile", "select"))


def all_workloads() -> Iterator[tuple[str, Callable[[], Workload]]]:
    """Yields each name with what makes the workload; converting takes a few seconds each."""
    from cost_calibration import converted  # torch and coremltools

    pythia = partial(written.decoder, tokens=512, vocabulary=50304, rotates=True)
    gemma = partial(
        written.decoder, 8, 1536, 6144, 8, rotates=True, gated=True, kv_heads=1, head_size=256, bits=4, convolves=True
    )
    for length in LENGTHS:
        yield f"distilbert-{length}", partial(_of_program, partial(converted.distilbert, length))
        yield f"distilbert-2022-{length}", partial(_of_2022, length)
    for name, width, layers in (("tiny", 384, 4), ("base", 512, 6), ("small", 768, 12), ("medium", 1024, 24)):
        yield f"whisper-{name}", partial(_repeated, partial(converted.whisper_encoder, width), layers)
    yield "whisper-tiny-split", partial(_of_tape, partial(written.whisper_encoder_split, 384, 4))
    yield "resnet50", partial(_of_program, converted.resnet50)
    yield "mobilenet-v2", partial(_of_program, converted.mobilenet_v2)
    yield "mobilenet-v3-small", partial(_of_tape, written.mobilenet_v3_small)
    yield "mobilevit-v2", partial(_of_vision, converted.mobilevit_v2)
    yield "stable-diffusion-21", partial(_of_tape, written.stable_diffusion_unet)
    yield "stable-diffusion-14", partial(_of_tape, partial(written.stable_diffusion_unet, head_size=0, text=768))
    for name, *sizes in (
        ("160m", 12, 768, 3072, 12),
        ("410m", 24, 1024, 4096, 16),
        ("1b", 16, 2048, 8192, 8),
        ("1.4b", 24, 2048, 8192, 16),
        ("2.8b", 32, 2560, 10240, 32),
    ):
        yield f"pythia-{name}", partial(_of_tape, partial(pythia, *sizes))
    yield (
        "llama2-7b",
        partial(
            _of_tape,
            partial(
                written.decoder,
                32,
                4096,
                11008,
                32,
                64,
                vocabulary=32000,
                context=448,
                rotates=True,
                gated=True,
                convolves=True,
            ),
        ),
    )
    for length in (64, 128, 256, 512):
        yield f"gemma4-{length}", partial(_of_tape, partial(gemma, tokens=length))


def _of_program(make: Callable[[], Program]) -> Workload:
    program = make()
    placements = place(program)
    regions = partition(placements)
    hosted = {operation for region in regions if region.device == "cpu" for operation in region.operations}
    steps = read_steps([placement.operation for placement in placements], hosted)
    return _workload(steps, device_changes(regions))


def _of_vision(make: Callable[[], Program]) -> Workload:
    # What transformers unfolds with a look-up, the published conversion reshapes: no row of it left the engine.
    return _workload(read_steps(make().operations), 0)


def _repeated(make: Callable[[int], Program], layers: int) -> Workload:
    """Derives a deep program from those of one and two layers, whose difference is one layer."""
    one, two = (_of_program(partial(make, depth)) for depth in (1, 2))
    steps = Counter(dict(one.steps))
    layer = Counter(dict(two.steps))
    layer.subtract(steps)
    for step, count in layer.items():
        steps[step] += (layers - 1) * count
    if min(steps.values()) < 0:
        raise ValueError("a layer takes steps away: programs of one and two layers differ by more than a layer")
    return Workload(tuple((step, count) for step, count in steps.items() if count), one.crossings)


def _of_tape(make: Callable[[], Tape]) -> Workload:
    return _workload(read_steps(make().operations), 0)


def _of_2022(length: int) -> Workload:
    operations = written.distilbert_of_2022(length).operations
    hosted = [operation for operation in operations if operation.type in _OFF_IN_2022]
    layers = sum(operation.type == "select" for operation in hosted)
    return _workload(read_steps(operations, hosted), 2 * layers)  # to the CPU and back in each layer


def _workload(steps: list[Step], crossings: int) -> Workload:
    return Workload(tuple(tally(steps).items()), crossings)
