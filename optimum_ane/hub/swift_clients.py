"""How packages in the layouts of others are used: by the Swift of those clients, none of which ran here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimum_ane.exporters.compile_script import whisperkit_folder

if TYPE_CHECKING:
    from optimum_ane.hub.card_package import CardPackage

_SWIFT_TRANSFORMERS = """\
// swift-transformers loads compiled models: run `sh compile.sh` on a Mac first. Nobody has run this package with it.
import CoreML
import Generation
import Models
import Tokenizers

func example(folder: URL) async throws {
    let model = try LanguageModel.loadCompiled(
        url: folder.appending(path: "model.mlmodelc"),
        computeUnits: .cpuAndNeuralEngine,
        tokenizer: try await AutoTokenizer.from(modelFolder: folder)
    )
    print(try await model.generate(config: GenerationConfig(maxNewTokens: 32), prompt: "Once upon a time"))
}"""

_ANEMLL = """\
// ANEMLL loads compiled models: run `sh compile.sh` on a Mac first. Nobody has run this package with it.
//
//     swift run anemllcli --meta meta.yaml        in its folder anemll-swift-cli
//     python tests/chat.py --meta meta.yaml       in its repository"""

_WHISPERKIT = """\
// WhisperKit loads compiled models: run `sh compile.sh` on a Mac first, which makes the folder {folder}.
// Nobody has run this package with it.
import WhisperKit

func example(folder: URL) async throws {{
    let models = folder.appending(path: "{folder}").path
    let pipe = try await WhisperKit(WhisperKitConfig(modelFolder: models, load: true, download: false))
    let results = try await pipe.transcribe(audioPath: "speech.wav")
    print(results.map(\\.text).joined(separator: " "))
}}"""


def client_snippet(package: CardPackage) -> str:
    """Writes how the client that a package was made for takes it."""
    manifest = package.manifest
    snippets = {
        "anemll": _ANEMLL,
        "swift-transformers": _SWIFT_TRANSFORMERS,
        "whisperkit": _WHISPERKIT.format(folder=whisperkit_folder(manifest.source.name)),
    }
    return snippets[manifest.form.layout]
