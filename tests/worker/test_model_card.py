"""A worker's model card: adapters in the weights, special tokens, chat template."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import FalconForCausalLM

from shared.errors import BadRequest, SettingsError
from shared.process.settings import load_settings
from shared.registry.worker_registry import hash_card
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import PromptEncoder
from tests.chat_templates.plain import PLAIN
from tests.factories import make_job
from tests.worker.peft_adapters import write_adapter
from worker.engine import Output, Request, TokenOutput
from worker.jobs.conversion import to_sampling_params
from worker.model.checkpoint.adapter_folders import AdapterFolder
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.tiny import bundled_checkpoint
from worker.model.errors import CheckpointError
from worker.model_card import describe_merged, read_prompt_files
from worker.model_loading import LoadedModel, load_model
from worker.settings import WorkerSettings


def make_folder(directory: Path, weights: str = "weights", alpha: int = 8) -> AdapterFolder:
    """Write files named like an adapter's."""
    folder = directory / "verse"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(f'{{"lora_alpha": {alpha}}}')
    (folder / "adapter_model.safetensors").write_text(weights)
    return AdapterFolder(folder)


def test_the_digest_of_an_adapter_ignores_its_path_and_other_files(
    tmp_path: Path,
) -> None:
    here, there = make_folder(tmp_path / "here"), make_folder(tmp_path / "there")
    (there.path / "README.md").write_text("not part of the adapter")
    assert describe_merged([here]) == describe_merged([there])


def test_the_digest_of_an_adapter_depends_on_weights_and_scale(tmp_path: Path) -> None:
    folders = [
        make_folder(tmp_path / "a"),
        make_folder(tmp_path / "b", weights="others"),
        make_folder(tmp_path / "c", alpha=16),
    ]
    described = describe_merged(folders)
    assert {adapter.name for adapter in described} == {"verse"}
    assert len({adapter.digest for adapter in described}) == 3


def load(adapters_dir: Path | None, mode: str = "merge", model: Path | None = None) -> LoadedModel:
    flags = {"device": "cpu", "executor": "torch", "adapter_mode": mode}
    if model is not None:
        flags |= {"model": str(model), "kv_tokens": "1024"}
    if adapters_dir is not None:
        flags["adapters_dir"] = str(adapters_dir)
    return load_model(load_settings(WorkerSettings, flags))


def test_merged_adapters_and_their_strength_change_the_hash_of_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(tmp_path / "verse", bundled_checkpoint())
    alone, merged = load(None), load(tmp_path)
    monkeypatch.setenv("verse", "0.5")
    weaker = load(tmp_path)
    hashes = {hash_card(model.card, model.tokenizer_json) for model in (alone, merged, weaker)}
    assert len(hashes) == 3
    assert alone.card.merged_adapters is msgspec.UNSET
    assert [adapter.strength for adapter in weaker.card.merged_adapters or ()] == [0.5]


def test_served_adapters_are_not_listed_as_merged(tmp_path: Path) -> None:
    write_adapter(tmp_path / "verse", bundled_checkpoint())
    card = load(tmp_path, "serve").card
    assert (card.adapters, card.merged_adapters) == (("verse",), msgspec.UNSET)


def edit(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_pad_token_beyond_the_embedding_table_does_not_change_the_output(
    tmp_path: Path,
) -> None:
    """QLoRA recipes add [PAD] to the tokenizer without resizing the embeddings."""
    folder = write_random_checkpoint(tmp_path / "model")
    edit(folder / "config.json", pad_token_id=512)
    edit(folder / "generation_config.json", pad_token_id=512)
    edit(folder / "tokenizer_config.json", pad_token="[PAD]")
    (folder / "added_tokens.json").write_text('{"[PAD]": 512}')
    loaded = load(None, model=folder)
    encoder = PromptEncoder(loaded.card, loaded.tokenizer_json)
    kwargs = GenerateKwargs(do_sample=False, num_beams=2, max_new_tokens=4, eos_token_id=None)
    prepared = encoder.prepare(make_job(prompt="The falcon"), kwargs)
    params = to_sampling_params(kwargs, max_new_tokens=4, seed=0, card=loaded.card)
    loaded.engine.add(
        Request(request_id="a", prompt_token_ids=prepared.token_ids or [], params=params)
    )
    outputs: list[Output] = []
    while loaded.engine.has_work:
        outputs += loaded.engine.step()
    tokens = [output.token_id for output in outputs if isinstance(output, TokenOutput)]
    oracle: Any = FalconForCausalLM.from_pretrained(folder)
    input_ids = torch.tensor([prepared.token_ids])
    options = {"num_beams": 2, "max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    expected = oracle.generate(input_ids, attention_mask=torch.ones_like(input_ids), **options)
    assert tokens == expected[0, input_ids.shape[1] :].tolist()
    with pytest.raises(BadRequest, match=r"token '\[PAD\]' must not occur: its id 512"):
        encoder.prepare(make_job(prompt="The falcon[PAD]"), kwargs)


def test_a_model_whose_eos_tokens_have_no_embedding_is_refused(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "model")
    edit(folder / "config.json", eos_token_id=512)
    edit(folder / "generation_config.json", eos_token_id=[512, 513])
    edit(folder / "tokenizer_config.json", eos_token="[END]")
    with pytest.raises(SettingsError, match=r"generation_config\.json: eos_token_id must be less"):
        load(None, model=folder)


@pytest.mark.parametrize(
    "template",
    [
        "<|im_start|>{{ messages[0].content }}",
        "{{ bos_token }}{{ messages[0].content }}",
        "{% if tools %}<|im_start|>{% endif %}{{ messages[0].content }}",
        "{{ raise_exception('a system message must come first') }}<|im_start|>",
    ],
)
def test_a_template_that_always_writes_a_token_without_embedding_is_refused(
    template: str, tmp_path: Path
) -> None:
    folder = write_random_checkpoint(tmp_path / "model")
    edit(folder / "tokenizer_config.json", bos_token="<|im_start|>", chat_template=template)
    if template.startswith("{%") or "raise" in template:
        assert load(None, model=folder).card.chat_template == template
        return
    with pytest.raises(SettingsError, match=r"chat template puts '<\|im_start\|>' into every"):
        load(None, model=folder)


@pytest.mark.parametrize("is_file", [True, False])
def test_a_setting_names_another_chat_template(is_file: bool, tmp_path: Path) -> None:
    """A file, or the bundled one of Falcon-instruct."""
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}")
    expected = file.read_text() if is_file else PLAIN["falcon-instruct"]
    name = str(file) if is_file else "falcon-instruct"
    assert read_prompt_files(bundled_checkpoint(), name).chat_template == expected


def test_a_named_chat_template_that_is_absent_or_broken_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jinja"
    broken.write_text("a\n{% if %}")
    for name, words in ((str(broken), r"broken\.jinja, line 2"), (str(tmp_path / "no"), "no")):
        with pytest.raises(CheckpointError, match=words):
            read_prompt_files(bundled_checkpoint(), name)
