"""What the clients of a layout want beside the programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum_ane.exporters.anemll import AnemllANEConfig
from optimum_ane.exporters.cached_decoder.anemll import count_parts
from optimum_ane.exporters.cached_decoder.anemll_files import META_YAML, meta_yaml
from optimum_ane.exporters.compile_script import COMPILE_SH, compile_script, whisperkit_folder
from optimum_ane.exporters.whisperkit import KIT_FILES, WhisperKitANEConfig
from optimum_ane.version import __version__

if TYPE_CHECKING:
    from optimum_ane.workflows.draft import PackageDraft


def write_client_files(draft: PackageDraft) -> None:
    """Writes `compile.sh` for clients of others, which load compiled models, and `meta.yaml` for those of ANEMLL.

    The script of packages for WhisperKit makes the folder that this client opens.
    """
    form, ane_config = draft.form, draft.ane_config
    if form.layout == "native":
        return
    packages = [program.path for program in draft.manifest.programs]
    script = draft.directory / COMPILE_SH
    if isinstance(ane_config, WhisperKitANEConfig):
        script.write_text(compile_script(packages, whisperkit_folder(draft.checkpoint.source.name), KIT_FILES))
    else:
        script.write_text(compile_script(packages))
    script.chmod(0o755)
    if not isinstance(ane_config, AnemllANEConfig):
        return
    assert form.context_length is not None
    assert form.prefill_length is not None
    source = draft.checkpoint.source
    text = meta_yaml(
        ane_config.names(form),
        name=source.name,
        version=__version__,
        license=source.license or "unknown",
        author=source.author or "unknown",
        architecture=draft.manifest.model_type,
        context_length=form.context_length,
        batch_size=form.prefill_length,
        parts=count_parts(ane_config.vocab_size),
        vocab_size=ane_config.vocab_size,
    )
    (draft.directory / META_YAML).write_text(text, encoding="utf-8")
