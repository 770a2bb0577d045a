"""The Hub, played by a server on this machine; the client is the real one."""

import base64
import hashlib
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
from typer.testing import CliRunner

from vocabmerge import VocabularyError, push_folder
from vocabmerge.cli.app import app
from vocabmerge.hub.fetch import local_files, model_folder
from vocabmerge.hub.push import bare_names


class _Hub(BaseHTTPRequestHandler):
    """So much of the Hub as an upload of small files and a fetch ask for."""

    made: dict[str, Any]
    files: dict[str, bytes]
    address: str
    refusing = False
    commit = "c0ffee" + "0" * 34

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.refusing:
            self._answer({"error": "you may not"}, status=403)
        elif self.path == "/api/repos/create":
            type(self).made = json.loads(body)
            self._answer({"url": "https://huggingface.co/someone/ours", "id": "someone/ours"})
        elif self.path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            self._answer(
                {
                    "files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in asked
                    ]
                }
            )
        elif self.path.endswith("/commit/main"):
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    type(self).files[entry["value"]["path"]] = content
            self._answer(
                {
                    "success": True,
                    "commitUrl": "https://huggingface.co/someone/ours/commit/1",
                    "commitOid": "1",
                }
            )
        else:  # the card's header is checked on the side
            self._answer({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        place = self.path.partition("?")[0]
        if self.refusing:
            self._answer({"error": "gone"}, status=503)
        elif place in ("/api/models/someone/ours", "/api/models/someone/ours/revision/main"):
            siblings = [{"rfilename": name} for name in self.files]
            self._answer({"id": "someone/ours", "sha": self.commit, "siblings": siblings})
        elif place == f"/api/models/someone/ours/tree/{self.commit}":
            self._answer(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}
                    for name, content in self.files.items()
                ]
            )
        elif place.startswith(f"/someone/ours/resolve/{self.commit}/"):
            self._answer_file(self.files[place.rpartition(f"{self.commit}/")[2]])
        else:
            code = "RevisionNotFound" if "/revision/" in place else "RepoNotFound"
            self._answer({"error": "no such model"}, status=404, headers={"X-Error-Code": code})

    do_HEAD = do_GET  # noqa: N815  # the name it has above

    def _answer_file(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{_digest(content)}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _answer(
        self, value: Any, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the name it has above
        pass


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hub]]:
    """A stand-in on this machine; the client is the real one."""
    served = type("Served", (_Hub,), {"files": {}, "made": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served.address = address = f"http://127.0.0.1:{server.server_port}"
    real = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: real(endpoint=address, token="hf_none"))
    fetched = partial(huggingface_hub.snapshot_download, endpoint=address)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    (folder / "languages" / "de").mkdir(parents=True)
    for name in (
        "model.safetensors",
        "README.md",
        "stage.json",
        "made_of.json",
        "languages/de/tokenizer.json",
    ):
        (folder / name).write_text(name)
    return folder


def test_a_folder_is_pushed_whole_and_privately(hub: type[_Hub], folder: Path) -> None:
    push_folder(folder, "someone/ours", ignore=["stage.json", "made_of.json"])

    assert hub.made["name"] == "ours"
    assert "private" in (
        hub.made.get("visibility"),
        *(key for key, value in hub.made.items() if value),
    )
    assert hub.files == {
        name: name.encode()
        for name in ("model.safetensors", "README.md", "languages/de/tokenizer.json")
    }


def test_of_what_lies_here_the_name_alone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "models")
    stated = {
        "teacher": "small",
        "gone": "/of/another/machine/large",
        "place": Path("..") / "models",
        "here": ".",
        "hub": ["intfloat/multilingual-e5-small", "hub:org/text"],
        "nested": {"zero": ({"nvme_path": str(tmp_path)},)},
        "others": (3, None, True, "", "query: "),
    }

    assert bare_names(stated) == {
        "teacher": "small",
        "gone": "large",
        "place": "models",
        "here": "models",
        "hub": ["intfloat/multilingual-e5-small", "hub:org/text"],
        "nested": {"zero": [{"nvme_path": tmp_path.name}]},
        "others": [3, None, True, "", "query: "],
    }


def test_a_refusal_of_the_hub_is_one_sentence(hub: type[_Hub], folder: Path) -> None:
    hub.refusing = True

    with pytest.raises(
        VocabularyError,
        match=r"small is done, but the Hub did not take it as someone/ours .*you may not",
    ) as caught:
        push_folder(folder, "someone/ours")

    assert "\n" not in str(caught.value)


def test_after_an_interrupted_upload_it_is_said_what_is_there_and_what_pushes_it(
    hub: type[_Hub], trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(trained("wordpiece").tokenizer))
    (tmp_path / "en.txt").write_text("abd nor")
    small = tmp_path / "a small one"
    words = ["trim", str(tmp_path / "tokenizer.json"), "--language", f"en={tmp_path / 'en.txt'}", "-o", str(small), "--push", "someone/ours", "-q"]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(type(huggingface_hub.HfApi()), "upload_folder", Mock(side_effect=KeyboardInterrupt))  # fmt: skip
        done = CliRunner().invoke(app, words)

    assert done.exit_code == 130
    assert f"{small} is done" in done.stderr
    assert "nothing was written" not in done.stderr
    assert not hub.files

    _run_what_is_named(done.stderr, hub)

    assert set(hub.files) == set(local_files(small))


@pytest.mark.parametrize("public", [False, True])
def test_what_is_named_to_push_again_does_as_was_asked(
    public: bool, hub: type[_Hub], folder: Path
) -> None:
    hub.refusing = True
    with pytest.raises(VocabularyError) as caught:
        push_folder(folder, "someone/ours", public=public, ignore=["stage.json", "made_of.json"])
    hub.refusing = False

    _run_what_is_named(str(caught.value), hub)

    assert set(hub.files) == {"model.safetensors", "README.md", "languages/de/tokenizer.json"}
    assert hub.made.get("private", hub.made.get("visibility") == "private") is not public


def _run_what_is_named(sentence: str, hub: type[_Hub]) -> None:
    """The last command between grave accents, against the stand-in."""
    *_, command, _ = sentence.split("`")
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_none", "HF_HUB_OFFLINE": "0"}  # fmt: skip
    name, *words = shlex.split(command)
    program = f"from importlib.metadata import entry_points as all; [hf] = all(group='console_scripts', name={name!r}); hf.load()()"
    subprocess.run([sys.executable, "-c", program, *words], env=environment, check=True, timeout=60)


def test_offline_is_one_sentence(folder: Path) -> None:
    with pytest.raises(VocabularyError, match="hf auth login"):
        push_folder(folder, "someone/ours")


@pytest.mark.parametrize("name", ["not a name", "small", "a/b/c", "/small", "someone/"])
def test_a_bad_name_is_refused_before_anything_is_asked(name: str, folder: Path) -> None:
    with pytest.raises(VocabularyError, match="OWNER/NAME"):
        push_folder(folder, name)


def test_a_trim_is_pushed_with_its_card(hub: type[_Hub], trained: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(trained("wordpiece").tokenizer))
    (tmp_path / "en.txt").write_text("abd nor")
    arguments = [
        "trim",
        str(tmp_path / "tokenizer.json"),
        "--language",
        f"en={tmp_path / 'en.txt'}",
    ]

    done = CliRunner().invoke(
        app, [*arguments, "-o", str(tmp_path / "small"), "--push", "someone/ours", "--json", "-q"]
    )

    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["languages"]["en"]["lines"] == 1
    assert done.stderr.endswith("/someone/ours\n")
    assert set(hub.files) == set(local_files(tmp_path / "small"))
    assert 'from_pretrained("someone/ours")' in hub.files["README.md"].decode()


REPOSITORY = {
    "config.json": b"{}",
    "tokenizer.json": b'{"model": {}}',
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"the same again",
    "2_Dense/pytorch_model.bin": b"dense",
    "onnx/model.onnx": b"another format",
    "onnx/config.json": b"of another format",
    "sparse_linear.pt": b"side file",
    "optimizer.pt": b"of a training",
    "LICENSE": b"MIT",
    "modeling_ours.py": b"code",
    ".gitattributes": b"",
}
NEEDED = {
    *("config.json", "tokenizer.json", "model.safetensors", "2_Dense/pytorch_model.bin"),
    *("sparse_linear.pt", "LICENSE"),
}


def test_a_name_on_the_hub_becomes_a_folder_with_what_a_model_needs(
    hub: type[_Hub], cache: Path
) -> None:
    hub.files.update(REPOSITORY)

    folder = model_folder("someone/ours")

    assert folder.is_relative_to(cache)
    assert set(local_files(folder)) == NEEDED
    assert all((folder / name).read_bytes() == REPOSITORY[name] for name in NEEDED)
    hub.refusing = True  # no longer to be reached
    assert model_folder("someone/ours") == folder
    assert model_folder("someone/ours", revision=hub.commit) == folder


def test_what_the_hub_does_not_have_is_named(hub: type[_Hub], cache: Path) -> None:
    hub.files.update(REPOSITORY)

    with pytest.raises(
        VocabularyError, match="nobody/nothing: no such file or folder, and no model"
    ):
        model_folder("nobody/nothing")
    with pytest.raises(VocabularyError, match="the Hub has no revision 'v9'"):
        model_folder("someone/ours", revision="v9")


def test_offline_says_what_to_fetch_and_where(cache: Path) -> None:
    with pytest.raises(VocabularyError) as caught:
        model_folder("intfloat/multilingual-e5-small", revision="main")

    said = str(caught.value)
    assert "not in the local cache" in said
    assert "`hf download intfloat/multilingual-e5-small --revision main`" in said
    assert str(cache) in said
    assert "\n" not in said


def test_settings_that_some_other_program_fetched_are_no_model(cache: Path) -> None:
    folder = cache / "models--someone--ours" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder.parent.parent / "refs").mkdir()
    (folder.parent.parent / "refs" / "main").write_text("0" * 40)

    with pytest.raises(VocabularyError, match="settings without its weights"):
        model_folder("someone/ours")


@pytest.mark.parametrize("path", ["./model", "/model", "models/bret", "tokenizer.json", "a/b/c"])
def test_a_misspelt_path_is_never_asked_of_the_hub(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    with pytest.raises(VocabularyError, match="no such file or folder, and no name on the Hub"):
        model_folder(path)
    with pytest.raises(VocabularyError, match="no such file or folder"):
        model_folder(Path("someone/ours"))


def test_a_revision_is_refused_for_a_folder(folder: Path) -> None:
    with pytest.raises(VocabularyError, match="--revision main is for a name on the Hub"):
        model_folder(folder, revision="main")
