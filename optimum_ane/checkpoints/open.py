"""SHIM until the checkpoints branch is merged."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

from optimum_ane.checkpoints import source as s
from optimum_ane.checkpoints.source import Source


@dataclass
class Checkpoint:
    source: Source
    task: str
    config: Any
    tokenizer: Any
    model: Any
    left_out: tuple = ()

    @property
    def weights(self):
        return {n: v.float() for n, v in self.model.state_dict().items()}

    def original(self):
        return self.model

    def complete(self, form):
        return replace(form, task=self.task)

    def prompts(self):
        return {}


def open_checkpoint(model, *, task, hub, adapter=None, gguf_file=None):
    config = s.load_config(model, hub)
    task = s.resolve_task(task, config)
    from optimum_ane.exporters.config import get_ane_config_class

    get_ane_config_class(config.model_type, task)
    c = s.load_checkpoint(model, task, config, hub)
    return Checkpoint(c.source, task, c.config, c.tokenizer, c.model)


def checkpoint_of_model(model, task, tokenizer):
    task = s.infer_task(type(model)) if task == "auto" else s.resolve_task(task, model.config)
    if model.training or model.dtype != torch.float32:
        model = copy.deepcopy(model).float().eval()
    name = model.name_or_path or type(model).__name__
    return Checkpoint(
        Source(model=name, revision=getattr(model.config, "_commit_hash", None), author=None),
        task,
        model.config,
        tokenizer,
        model,
    )
