"""Every stand-in by name, reduced to the steps that the cost model prices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from cost_calibration import built_programs
from cost_calibration.program_builder import ProgramBuilder
from cost_calibration.program_steps import ProgramSteps, count_steps
from optimum_ane.analysis.cost import device_changes
from optimum_ane.analysis.operations import Program
from optimum_ane.analysis.partition import partition
from optimum_ane.analysis.residency import place
from optimum_ane.analysis.steps import read_steps

LENGTHS = (32, 64, 128, 256, 512)
_OFF_IN_2022 = frozenset(("equal", "tile", "select"))


def all_stand_ins() -> Iterator[tuple[str, Callable[[], ProgramSteps]]]:
    """Yields each name with what makes the program; converting takes a few seconds each."""
    from cost_calibration import converted_programs  # torch and coremltools

    pythia = partial(built_programs.decoder, tokens=512, vocabulary=50304, rotates=True)
    gemma = partial(
        built_programs.decoder,
        8,
        1536,
        6144,
        8,
        rotates=True,
        gated=True,
        kv_heads=1,
        head_size=256,
        bits=4,
        convolves=True,
    )
    for length in LENGTHS:
        yield f"distilbert-{length}", partial(_of_program, partial(converted_programs.distilbert, length))
        yield f"distilbert-2022-{length}", partial(_of_2022, length)
    for name, width, layers in (("tiny", 384, 4), ("base", 512, 6), ("small", 768, 12), ("medium", 1024, 24)):
        yield f"whisper-{name}", partial(_repeated, partial(converted_programs.whisper_encoder, width), layers)
    yield "whisper-tiny-split", partial(_of_builder, partial(built_programs.whisper_encoder_split, 384, 4))
    yield "resnet50", partial(_of_program, converted_programs.resnet50)
    yield "mobilenet-v2", partial(_of_program, converted_programs.mobilenet_v2)
    yield "mobilenet-v3-small", partial(_of_builder, built_programs.mobilenet_v3_small)
    yield "mobilevit-v2", partial(_of_vision, converted_programs.mobilevit_v2)
    yield "stable-diffusion-21", partial(_of_builder, built_programs.stable_diffusion_unet)
    yield (
        "stable-diffusion-14",
        partial(_of_builder, partial(built_programs.stable_diffusion_unet, head_size=0, text=768)),
    )
    for name, *sizes in (
        ("160m", 12, 768, 3072, 12),
        ("410m", 24, 1024, 4096, 16),
        ("1b", 16, 2048, 8192, 8),
        ("1.4b", 24, 2048, 8192, 16),
        ("2.8b", 32, 2560, 10240, 32),
    ):
        yield f"pythia-{name}", partial(_of_builder, partial(pythia, *sizes))
    yield (
        "llama2-7b",
        partial(
            _of_builder,
            partial(
                built_programs.decoder,
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
        yield f"gemma4-{length}", partial(_of_builder, partial(gemma, tokens=length))


def _of_program(make: Callable[[], Program]) -> ProgramSteps:
    program = make()
    placements = place(program)
    regions = partition(placements)
    hosted = {operation for region in regions if region.device == "cpu" for operation in region.operations}
    steps = read_steps([placement.operation for placement in placements], hosted)
    return count_steps(steps, device_changes(regions))


def _of_vision(make: Callable[[], Program]) -> ProgramSteps:
    # What transformers unfolds with a look-up, the published conversion reshapes: no row of it left the engine.
    return count_steps(read_steps(make().operations), 0)


def _repeated(make: Callable[[int], Program], layers: int) -> ProgramSteps:
    """Derives a deep program from those of one and two layers, whose difference is one layer."""
    one, two = (_of_program(partial(make, depth)) for depth in (1, 2))
    steps = Counter(dict(one.steps))
    layer = Counter(dict(two.steps))
    layer.subtract(steps)
    for step, count in layer.items():
        steps[step] += (layers - 1) * count
    if min(steps.values()) < 0:
        raise ValueError("a layer takes steps away: programs of one and two layers differ by more than a layer")
    return ProgramSteps(tuple((step, count) for step, count in steps.items() if count), one.crossings)


def _of_builder(make: Callable[[], ProgramBuilder]) -> ProgramSteps:
    return count_steps(read_steps(make().operations), 0)


def _of_2022(length: int) -> ProgramSteps:
    operations = built_programs.distilbert_of_2022(length).operations
    hosted = [operation for operation in operations if operation.type in _OFF_IN_2022]
    layers = sum(operation.type == "select" for operation in hosted)
    return count_steps(read_steps(operations, hosted), 2 * layers)  # to the CPU and back in each layer
