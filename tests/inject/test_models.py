"""Which models the entries of `models` stand for, what is fetched of them, and what is refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

from configs.errors import DataError, RecipeError
from inject import models
from inject.models import FILES, Reference, alike, examine, fetch, references, released, signature

COMMITS = {name: f"{number:040x}" for number, name in enumerate(["main", "step0", "step8", "step1000", "stage2-step8"])}
HUB = "EleutherAI/pythia-160m"


class Hub:
    """Stands for the Hugging Face hub: one model with branches; what it was asked, and what it answers instead if that is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None

    def list_repo_refs(self, name: str) -> SimpleNamespace:
        self._ask(f"refs of {name}")
        branches = [SimpleNamespace(name=name, target_commit=commit) for name, commit in COMMITS.items()]
        return SimpleNamespace(branches=branches, tags=[SimpleNamespace(name="step8", target_commit="f" * 40)])

    def model_info(self, name: str, revision: str, timeout: int) -> SimpleNamespace:
        self._ask(f"{name}@{revision}")
        return SimpleNamespace(sha=COMMITS[revision])

    def _ask(self, question: str) -> None:
        self.asked.append(question)
        if self.error:
            raise self.error


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    models._ask_refs.cache_clear()
    models._ask_commit.cache_clear()
    return made


def copies(small_model: Path, *folders: Path) -> list[Path]:
    return [Path(shutil.copytree(small_model, folder)) for folder in folders]


def error(kind: type[Exception], said: str) -> Exception:
    return kind(said, response=httpx.Response(404, request=httpx.Request("GET", "https://hub")))  # type: ignore[call-arg]


# ------------------------------------------------------------------------------------------------ which they are


def test_a_hub_name_is_the_commit_of_its_main_branch(hub):
    assert references(HUB) == [Reference(HUB, "main", COMMITS["main"])]


def test_a_revision_is_the_commit_that_it_stands_for(hub):
    assert references(f"{HUB}@step8") == [Reference(HUB, "step8", COMMITS["step8"])]


def test_a_commit_is_never_asked_for(hub):
    commit = "a" * 40
    assert references(f"{HUB}@{commit}") == [Reference(HUB, commit, commit)]
    assert hub.asked == []


def test_a_glob_takes_branches_and_tags_in_the_order_in_which_people_count_and_a_branch_before_a_tag_of_its_name(hub):
    found = references(f"{HUB}@step*")
    assert [reference.revision for reference in found] == ["step0", "step8", "step1000"]
    assert found[1].commit == COMMITS["step8"]


def test_the_hub_is_asked_once_about_what_is_asked_for_twice(hub):
    for _ in range(2):
        references(f"{HUB}@step*")
        references(HUB)
    assert hub.asked == [f"refs of {HUB}", f"{HUB}@main"]


def test_a_glob_that_matches_no_revision_names_some_that_are_there(hub):
    with pytest.raises(RecipeError, match=r"no branch or tag of .* is called so; it has 5: main, stage2-step8, step0"):
        references(f"{HUB}@epoch*")


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (error(RepositoryNotFoundError, "404"), f"the hub shows no model {HUB}; for a private one run: hf auth login"),
        (error(RevisionNotFoundError, "404"), "has no such branch, tag or commit"),
        (error(GatedRepoError, "403"), f"gated: accept its terms at huggingface.co/{HUB}"),
        (OfflineModeIsEnabled("offline"), "the 40 hex digits of a commit that was fetched before"),
        (OSError("Name or service not known"), r"\(Name or service not known\); without a network give"),
    ],
)
def test_what_the_hub_refuses_is_told_with_what_to_do(hub, raised, sentence):
    hub.error = raised
    for entry in (f"{HUB}@step8", f"{HUB}@step*"):
        with pytest.raises(DataError, match=sentence):
            references(entry)


def test_a_folder_is_itself_and_a_glob_of_folders_is_those_that_hold_models(hub, small_model, tmp_path):
    copies(small_model, *(tmp_path / name for name in ("step-10", "step-9", "step-x")))
    (tmp_path / "step-11").mkdir()  # being written, or no model
    assert references(str(tmp_path / "step-9")) == [Reference(str(tmp_path / "step-9"))]
    assert [Path(one.name).name for one in references(str(tmp_path / "step-*"))] == ["step-9", "step-10", "step-x"]
    assert hub.asked == []


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("{}/none-*", "matches no folder"),
        ("{}/empty*", "matches 1 folders, of which none is a Hugging Face model"),
        ("{}/empty", "no folder of a Hugging Face model: it has no config.json"),
        ("{}/elsewhere", "no folder that is there; possible: a folder, a glob of folders, or a name of the hub"),
        ("a/b/c", "no folder that is there"),
        ("a/b@", "no folder that is there"),
    ],
)
def test_what_is_no_model_is_refused(hub, tmp_path, entry, sentence):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=sentence):
        references(entry.format(tmp_path))
    assert hub.asked == []


# ------------------------------------------------------------------------------------------------ names


def named(*references: Reference) -> list[tuple[str, str, int | None]]:
    return [(one.slug, one.model, one.step) for one in released(references)]


def test_revisions_that_are_named_for_steps_are_steps_of_one_model_and_others_are_models_of_their_own(hub):
    commit = "a" * 40
    found = [*references(f"{HUB}@*step*"), *references(HUB), *references(f"{HUB}@{commit}")]
    assert named(*found) == [
        ("EleutherAI--pythia-160m-stage2-step8", "EleutherAI--pythia-160m-stage2", 8),
        ("EleutherAI--pythia-160m-step0", "EleutherAI--pythia-160m", 0),
        ("EleutherAI--pythia-160m-step8", "EleutherAI--pythia-160m", 8),
        ("EleutherAI--pythia-160m-step1000", "EleutherAI--pythia-160m", 1000),
        ("EleutherAI--pythia-160m-main", "EleutherAI--pythia-160m-main", None),
        ("EleutherAI--pythia-160m-aaaaaaaaaaaa", "EleutherAI--pythia-160m-aaaaaaaaaaaa", None),
    ]


def test_checkpoints_of_a_run_are_steps_of_its_model():
    found = named(
        Reference("runs/x/perturbed/checkpoints/step-00000300"), Reference("/data/mine/final"), Reference("/a/b/checkpoint-5")
    )
    assert found == [
        ("x--perturbed-step300", "x--perturbed", 300),
        ("mine--final", "mine--final", None),
        ("a--b-step5", "a--b", 5),
    ]


@pytest.mark.parametrize("revision", ["footstep9", "step9k", "v2", "main"])
def test_a_revision_that_only_looks_like_a_step_is_none(revision):
    assert released([Reference(HUB, revision, "b" * 40)])[0].step is None


def test_folders_of_one_name_elsewhere_are_told_apart():
    first, second = released([Reference("/a/x/m/step1"), Reference("/b/x/m/step1")])
    assert first.slug.startswith("x--m-step1-")
    assert (first.slug != second.slug, first.model != second.model) == (True, True)


def test_what_is_named_twice_is_scored_once():
    assert len(released([Reference(HUB, "step8", COMMITS["step8"])] * 2)) == 1


def test_two_revisions_of_one_step_are_refused():
    with pytest.raises(RecipeError, match=r"pythia-160m@step8-a and .*@step8-b, which are both step 8 of EleutherAI--pythia-160m"):
        released([Reference(HUB, "step8-a", "a" * 40), Reference(HUB, "step8-b", "b" * 40)])


# ------------------------------------------------------------------------------------------------ files


def test_only_configuration_tokenizer_and_safetensors_of_the_pinned_commit_are_fetched(monkeypatch, tmp_path):
    asked = {}

    def download(name: str, **arguments: object) -> str:
        asked.update(arguments, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert fetch(Reference(HUB, "step8", COMMITS["step8"])) == tmp_path
    assert (asked["name"], asked["revision"]) == (HUB, COMMITS["step8"])
    there = ["config.json", "tokenizer.json", "tokenizer_config.json", "model-00001-of-00002.safetensors", "vocab.json"]
    other = ["pytorch_model.bin", "moments.safetensors", "original/model.safetensors", "modeling_own.py", "README.md"]
    patterns = {"allow_patterns": asked["allow_patterns"], "ignore_patterns": asked["ignore_patterns"]}
    assert list(huggingface_hub.utils.filter_repo_objects([*there, *other], **patterns)) == there


def test_a_download_that_fails_says_where_to_go_on(monkeypatch):
    def download(*_: object, **__: object) -> str:
        raise OSError("No space left on device\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(DataError, match=r"pythia-160m@step8 could not be fetched \(No space left on device\); run again"):
        fetch(Reference(HUB, "step8", COMMITS["step8"]))


def test_a_model_is_examined_by_its_files(small_model):
    found = examine(small_model, "small")
    assert (list(found.weights), found.longest) == (["model.safetensors"], 48)
    assert found.parameters == 300 * 32 + 48 * 32 + 300 * 32 + 12 * 32 * 32 + 13 * 32 + 2 * 32


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "has pickles, which could hold any program: eval.pickles",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "damaged weights"),
        (lambda folder: [file.unlink() for file in folder.glob("*token*")], "comes without a tokenizer"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "vit"}'), "a vit, which is no causal language model"),
        (
            lambda folder: (folder / "config.json").write_text(
                json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}})
            ),
            "no model that transformers can build without running code that comes with it",
        ),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model-00002-of-2.safetensors"}}'
            ),
            "lacks model-00002-of-2.safetensors",
        ),
    ],
)
def test_a_model_that_cannot_be_scored_is_refused_by_name(small_model, tmp_path, change, sentence):
    [folder] = copies(small_model, tmp_path / "mine")
    change(folder)
    with pytest.raises(DataError, match=f"^mine .*{sentence}"):
        examine(folder, "mine")


def test_revisions_that_hold_the_same_weights_are_found(small_model, tmp_path):
    first, second, other = copies(small_model, *(tmp_path / name for name in "abc"))
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    examined = [(folder.name, examine(folder, folder.name)) for folder in (first, second, other)]
    assert alike(examined) == [("b", "a", "model.safetensors")]


def test_the_signature_of_a_folder_changes_with_what_is_read_of_it_alone(small_model, tmp_path):
    [folder] = copies(small_model, tmp_path / "mine")
    before = signature(folder)
    (folder / "README.md").write_text("hello")
    assert signature(folder) == before
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert signature(folder) != before
    assert {name for name, *_ in before} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert "README.md" not in FILES
