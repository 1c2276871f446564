"""How packages in the layouts of others are used: by the Swift of those clients, none of which ran here."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def client_snippet(package: CardPackage) -> str:
    """Writes how the client that a package was made for takes it."""
    return _ANEMLL if package.manifest.form.layout == "anemll" else _SWIFT_TRANSFORMERS
