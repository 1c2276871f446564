"""A checkpoint on the Hub: the card of the package links to it and carries its licence on."""

from hub_validation import validate_card
from huggingface_hub import ModelCard
from tiny_models import save_checkpoint

from optimum_ane.package.manifest import Manifest


def test_a_private_checkpoint_and_its_card(hub, tmp_path):
    """The card is read at the commit of the weights."""
    save_checkpoint(tmp_path / "in", "distilbert", "text-classification")
    files = {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    metadata = "license: other\nlicense_name: mine\nlicense_link: LICENSE.md\nlanguage: [en]\ndatasets: [org/data]"
    hub.server.create(hub.repo_id, is_private=True)
    commit = hub.server.put(hub.repo_id, files | {"README.md": f"---\n{metadata}\n---\n".encode()})
    options = {"sequence_length": 16, "validate": False, "quiet": True}
    hub.call("optimum_ane.workflows.export", "export", hub.repo_id, str(tmp_path / "out"), **options).get()
    source = Manifest.read(tmp_path / "out").source
    assert (source.model, source.name, source.is_hub) == (hub.repo_id, hub.repo_id, True)
    assert source.revision == commit
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert validate_card(card) == ([], [])
    said = ModelCard(card).data.to_dict()
    assert (said["base_model"], said["base_model_relation"]) == (hub.repo_id, "quantized")
    assert (said["license"], said["license_name"]) == ("other", "mine")
    assert said["license_link"] == f"https://huggingface.co/{hub.repo_id}/blob/{commit}/LICENSE.md"
    assert (said["language"], said["datasets"]) == (["en"], ["org/data"])
    assert f"](https://huggingface.co/{hub.repo_id}) at revision `{commit}`" in card
    report = (tmp_path / "out" / "export_report.json").read_text()
    assert f"optimum_ane.export('{hub.repo_id}', 'out'" in report
    assert hub.server.token not in card + report
