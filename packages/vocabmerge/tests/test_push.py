import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from vocabmerge import VocabularyError, push_folder


class _Hub(BaseHTTPRequestHandler):
    """So much of the Hub as an upload of small files asks for."""

    made: dict[str, Any]
    files: dict[str, bytes]
    refusing = False

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
        self._answer({"error": "no such model"}, status=404)

    def _answer(self, value: dict[str, Any], *, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the name it has above
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hub]]:
    """A stand-in on this machine; the client is the real one."""
    served = type("Served", (_Hub,), {"files": {}, "made": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    real = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: real(endpoint=address, token="hf_none"))
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


def test_a_refusal_of_the_hub_is_one_sentence(hub: type[_Hub], folder: Path) -> None:
    hub.refusing = True

    with pytest.raises(
        VocabularyError,
        match=r"small is done, but the Hub did not take it as someone/ours .*you may not",
    ) as caught:
        push_folder(folder, "someone/ours")

    assert "\n" not in str(caught.value)


def test_offline_is_one_sentence(folder: Path) -> None:
    with pytest.raises(VocabularyError, match="hf auth login"):
        push_folder(folder, "someone/ours")


@pytest.mark.parametrize("name", ["not a name", "small", "a/b/c", "/small", "someone/"])
def test_a_bad_name_is_refused_before_anything_is_asked(name: str, folder: Path) -> None:
    with pytest.raises(VocabularyError, match="OWNER/NAME"):
        push_folder(folder, name)
