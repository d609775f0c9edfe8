"""Who may ask the page: its own tab, with the token of this start, and nobody else."""

import pytest

from nnunet_bridge.core.errors import SecurityError
from nnunet_bridge.gui.roots import Roots

EVERY_ADDRESS = ["/", "/assets/app.js", "/api/state", "/api/events", "/file?path=/x"]


@pytest.mark.parametrize("path", EVERY_ADDRESS)
def test_without_token_nothing_is_answered(page, path):
    assert page.ask(path, Cookie=None)[0] == 401


@pytest.mark.parametrize("path", EVERY_ADDRESS)
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "[::1]"])
def test_a_foreign_host_is_refused(page, path, host):
    assert page.ask(path, Host=host)[0] == 421


@pytest.mark.parametrize("path", [*EVERY_ADDRESS, "/api/jobs", "/api/stop"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1", "http://localhost"]
)
def test_a_foreign_origin_is_refused(page, path, origin):
    method = "POST" if path in ("/api/jobs", "/api/stop") else "GET"

    assert page.ask(path, method, b"{}", Origin=origin)[0] == 403


def test_the_token_of_the_address_moves_into_a_strict_cookie(page):
    status, headers, _ = page.ask(f"/?token={page.token}", Cookie=None)

    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert cookie.startswith(f"nnunet_bridge_{page.port}={page.token};")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


@pytest.mark.parametrize("word", ["wrong", "%ff", "a" * 5000])
def test_a_wrong_token_is_refused_in_the_address_and_in_the_cookie(page, word):
    assert page.ask(f"/?token={word}", Cookie=None)[0] == 403
    assert page.ask("/", Cookie=f"nnunet_bridge_{page.port}={word}")[0] == 401


@pytest.mark.parametrize("path", ["/", "/assets/app.js", "/api/state"])
def test_every_answer_restricts_the_browser(page, path):
    status, headers, _ = page.ask(path)

    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_a_page_that_a_command_wrote_runs_in_an_origin_of_its_own(page):
    file = page.workspace / "index.html"
    file.write_text("<script>fetch('/api/state')</script>")

    status, headers, body = page.ask(f"/file?path={file}")

    assert (status, body) == (200, file.read_bytes())
    assert headers["content-security-policy"].startswith("sandbox allow-scripts;")


def test_paths_outside_the_roots_are_refused_also_by_links(page):
    (page.workspace / "out").symlink_to("/etc")
    (page.workspace / "passwd.txt").symlink_to("/etc/passwd")
    inside = str(page.workspace)

    for path in ("/etc/passwd", f"{inside}/../../../../etc/passwd", "etc/passwd",
                 f"{inside}/out/passwd", f"{inside}/passwd.txt", "", "/"):  # fmt: skip
        assert page.get("/file", path=path)[0] == 403, path
        assert page.get("/api/folder", path=path)[0] == 403, path
        values = {"study": path, "out": f"{inside}/dataset.toml"}
        started = page.post("/api/jobs", command="init", values=values)
        assert started[0] in (400, 403), path
    assert not (page.workspace / "runs").exists()


def test_a_folder_beside_a_root_with_the_same_beginning_is_outside(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study_private").mkdir()

    with pytest.raises(SecurityError, match="outside the folders"):
        Roots.of([tmp_path / "study"]).path(str(tmp_path / "study_private"))


def test_a_request_that_is_no_json_object_or_too_large_is_refused(page):
    for body in (b"", b"[]", b"{", b"\xff", b'{"a":' + b"1" * 16_000_001 + b"}"):
        assert page.ask("/api/jobs", "POST", body)[0] == 400


def test_a_body_without_a_size_is_refused(page):
    """It would be read into the memory without an end."""
    status, _, answer = page.ask("/api/jobs", "POST", Transfer_Encoding="chunked")

    assert status == 400
    assert b"does not say its size" in answer
