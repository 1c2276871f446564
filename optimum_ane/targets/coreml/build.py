"""SHIM"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import coremltools as ct
import numpy as np
import torch

from optimum_ane.nn import raise_epsilons_for_float16
from optimum_ane.package.meanings import MEANINGS
from optimum_ane.targets.coreml.hidden_states import named_hidden_states
from optimum_ane.targets.coreml.passes import pass_pipeline
from optimum_ane.targets.coreml.quiet import quiet, writing


@dataclass(frozen=True)
class ConvertibleFunction:
    name: str
    make_module: object
    inputs: dict
    outputs: tuple


class _P(torch.nn.Module):
    def __init__(s, m):
        super().__init__()
        s.module = m

    def forward(s, *i):
        l = s.module(*i)
        return l, l.softmax(dim=1)


def build_program(functions, path, *, precision, minimum_deployment_target, class_labels, metadata):
    made = []
    with tempfile.TemporaryDirectory() as tmp:
        for f in functions:
            m = f.make_module()
            if precision == "float16":
                raise_epsilons_for_float16(m)
            t = _P(m) if class_labels else m
            with torch.no_grad(), named_hidden_states(m), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tr = torch.jit.trace(t, tuple(f.inputs.values()), check_trace=False)
            names = [*f.outputs, "probabilities"] if class_labels else list(f.outputs)
            cc = (
                ct.ClassifierConfig(list(class_labels), predicted_probabilities_output="probabilities")
                if class_labels
                else None
            )
            with quiet(), writing():
                pk = ct.convert(
                    tr,
                    inputs=[ct.TensorType(name=n, shape=tuple(x.shape), dtype=np.int32) for n, x in f.inputs.items()],
                    outputs=[ct.TensorType(name=n) for n in names],
                    classifier_config=cc,
                    minimum_deployment_target=ct.target[minimum_deployment_target],
                    compute_precision=getattr(ct.precision, precision.upper()),
                    pass_pipeline=pass_pipeline(precision, bool(class_labels)),
                    skip_model_load=True,
                )
            if len(functions) == 1:
                pk.short_description = metadata.short_description
                pk.author = metadata.author
                pk.license = metadata.license
                pk.version = metadata.version
                pk.user_defined_metadata.update({k: str(v) for k, v in metadata.entries.items() if v is not None})
                for x in pk.get_spec().description.input:
                    pk.input_description[x.name] = MEANINGS[x.name]
                for x in pk.get_spec().description.output:
                    pk.output_description[x.name] = MEANINGS[x.name]
                pk.save(str(path))
                return
            q = Path(tmp) / f"{f.name}.mlpackage"
            pk.save(str(q))
            made.append((f.name, q))
        d = ct.utils.MultiFunctionDescriptor()
        for n, q in made:
            d.add_function(str(q), src_function_name="main", target_function_name=n)
        d.default_function_name = made[0][0]
        ct.utils.save_multifunction(d, str(path))
