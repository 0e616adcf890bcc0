"""Names, prompts and tokens cannot steer the terminal, nor the browser."""

import json
import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from edgewise import InputError
from edgewise.cli._print import visible
from tests.cli.commands import WORDS, Cli, find
from tests.cli.conftest import cli, found, model, pairs  # noqa: F401

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
NASTY = "\x1b]0;title\x07\x1b[31m\x9b2J\u202e"


def test_what_steers_a_terminal_is_spelled_out():
    assert visible(f"a{NASTY}b") == r"a\x1b]0;title\x07\x1b[31m\x9b2J\u202eb"
    assert visible("\udcff") == r"\udcff"
    assert visible("a\tb\nc é 漢 👍") == "a\tb\nc é 漢 👍"


@pytest.fixture
def nasty_model(tmp_path: Path) -> Path:
    """A model whose folder and tokens want to steer the terminal."""
    folder = tmp_path / f"model{NASTY}"
    words = ["[UNK]", *WORDS, f"mat{NASTY}"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(words), n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_no_command_prints_it(cli: Cli, nasty_model: Path, tmp_path: Path):  # noqa: F811
    task = tmp_path / f"p{NASTY}.jsonl"
    names = ["Mary", "Ann", "Lee"]
    rows = [
        {"clean": f"{a} ran to mat{NASTY}", "corrupted": f"{b} ran to mat{NASTY}", "answer": f" mat{NASTY}"}
        for a in names for b in names if a != b
    ]  # fmt: skip
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / f"out{NASTY}"
    prompt = f"Mary ran to mat{NASTY}"
    circuit = out / "circuit.safetensors"
    commands = [
        find(nasty_model, task, out, "--method", "eap"),
        ["evaluate", circuit, "--metrics", "kl"],
        ["attribute", prompt, "--model", nasty_model, "--out", out / "graph", "--max-nodes", "4"],
        ["view", out, "--no-open", "--out", out / "page.html"],
        ["draw", circuit, out / "c.svg"],
        ["tasks", "check", task, "--model", nasty_model],
        ["models", "check", nasty_model],
        ["models", "check", f"no{NASTY}/model"],
        ["evaluate", f"no{NASTY}.safetensors"],
        ["find", "--method", NASTY],
        ["find", "--set", f"steps={NASTY}"],
        [f"--{NASTY}"],
    ]
    worked = 0
    for command in commands:
        ran = cli(*command)
        worked += ran.status == 0
        assert not STEERING.search(ran.out + ran.err), (command[0], ran)
    assert worked >= 5


def test_a_refusal_is_one_line_whatever_a_name_holds():
    odd = "a\n b\x1e c\u2028 d\x85 e\r\n f"
    assert str(InputError(f"file: holds {odd}; give another")) == "file: holds a  b  c  d  e  f; give another"


def test_only_the_printing_module_prints():
    for path in (Path(__file__).parents[2] / "src" / "edgewise" / "cli").glob("*.py"):
        bare = [line for line in path.read_text().splitlines() if re.search(r"(?<![\w.])print\(", line)]
        assert path.name == "_print.py" or all("json" in line.lower() for line in bare), (path.name, bare)
