"""The canary: recorded only if it is steady, and a restored engine that answers otherwise is not "restored"."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dynamo_entry.engine import canary
from dynamo_entry.errors import Corrupt, DumpFailed, RestoreFailed, SettingsError


@pytest.fixture
def engine():
    """An HTTP server that answers with what is in its list, in turn, the last one for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            server.asked.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
            body = json.dumps(answer).encode()
            self.send_response(200 if answer != "broken" else 500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.asked = [{}], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def completion(text, logprob=-0.25):
    return {"id": "x", "choices": [{"text": text, "logprobs": {"token_logprobs": [logprob]}}]}


@pytest.fixture
def load(engine, tmp_path):
    def loaded(**more):
        path = tmp_path / "canary.json"
        fields = {
            "url": f"http://127.0.0.1:{engine.server_port}/v1/completions",
            "body": {"prompt": "Paris is", "max_tokens": 1},
            "compare": ["choices.0.text"],
        }
        path.write_text(json.dumps({**fields, **more}))
        return canary.load(str(path))

    return loaded


def test_what_was_recorded_is_found_again(engine, load):
    engine.answers = [completion(" nice")]
    recorded = json.loads(json.dumps(canary.record(load())))
    assert recorded["answer"] == {"choices.0.text": " nice"}
    canary.verify(canary.parse(recorded))
    assert engine.asked == [("/v1/completions", b'{"prompt": "Paris is", "max_tokens": 1}')] * 3


def test_another_answer_is_refused_with_both_values(engine, load):
    engine.answers = [completion(" nice"), completion(" nice"), completion(" big")]
    recorded = canary.record(load())
    with pytest.raises(RestoreFailed) as caught:
        canary.verify(canary.parse(recorded))
    assert caught.value.reason == "CanaryDiffers"
    assert 'choices.0.text is " big", expected " nice"' in caught.value.message


def test_an_answer_that_changes_by_itself_is_refused_at_creation(engine, load):
    engine.answers = [completion(" nice"), completion(" big")]
    with pytest.raises(DumpFailed) as caught:
        canary.record(load())
    assert (caught.value.reason, caught.value.retry) == ("CanaryUnsteady", False)


@pytest.mark.parametrize(("found", "fits"), [(-0.2501, True), (-0.26, False), (None, False)])
def test_numbers_may_differ_by_a_tolerance(engine, load, found, fits):
    place = {"field": "choices.0.logprobs.token_logprobs.0", "tolerance": 0.001}
    engine.answers = [completion("a"), completion("a"), completion("a", found)]
    recorded = canary.record(load(compare=[place]))
    if fits:
        canary.verify(canary.parse(recorded))
    else:
        with pytest.raises(RestoreFailed):
            canary.verify(canary.parse(recorded))


@pytest.mark.parametrize("answer", ["broken", {"choices": []}, []])
def test_no_answer_is_no_canary(engine, load, answer):
    engine.answers = [answer]
    with pytest.raises(DumpFailed) as caught:
        canary.record(load())
    assert caught.value.reason == "CanaryUnanswered"


def test_an_engine_that_does_not_answer_is_not_restored(load):
    recorded = {"request": {"url": "http://127.0.0.1:9/", "compare": ["a"]}, "answer": {"a": 1}}
    with pytest.raises(RestoreFailed) as caught:
        canary.verify(canary.parse(recorded))
    assert caught.value.reason == "CanaryUnanswered"


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"url": "http://x"}', '{"url": "http://x", "compare": []}',
     '{"url": "http://x", "compare": ["a"], "bdy": {}}', '{"url": "http://x", "compare": [{"tolerance": 1}]}'],
)  # fmt: skip
def test_a_file_that_is_no_canary_is_a_setting_to_mend(tmp_path, text):
    path = tmp_path / "canary.json"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        canary.load(str(path))
    assert str(path) in caught.value.message
    with pytest.raises(SettingsError):
        canary.load(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    "more",
    [
        {"timeout": -1}, {"timeout": 0}, {"timeout": 1e10}, {"url": "http://127.0.0.1:0/"}, {"url": "http://127.0.0.1/a b"}, {"url": "http://me@127.0.0.1/"},
        {"compare": [{"field": "a", "tolerance": -0.1}]},
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_made_is_a_setting_to_mend(load, engine, more):
    """Not found out after the model was loaded, nor an archive's word for it after it was restored."""
    with pytest.raises(SettingsError) as caught:
        load(**more)
    assert caught.value.reason == "CanaryInvalid"
    fields = {"url": "http://127.0.0.1:1/", "compare": ["a"], **more}
    with pytest.raises(Corrupt):
        canary.parse({"request": fields, "answer": {"a": 1}})


@pytest.mark.parametrize("index", ["9" * 5000, "\u0660", "-1", "1", "x"])
def test_an_index_that_is_none_is_a_field_that_is_missing(engine, load, index):
    engine.answers = [{"a": [0]}]
    with pytest.raises(DumpFailed, match="no field"):
        canary.record(load(compare=[f"a.{index}"]))


def test_a_number_that_no_float_comes_near_is_an_answer_like_any_other(engine, load):
    engine.answers = [{"a": 10**400}]
    asked = load(compare=[{"field": "a", "tolerance": 0.5}])
    recorded = canary.parse(canary.record(asked))
    engine.answers = [{"a": 0.5}]
    with pytest.raises(RestoreFailed, match="differs"):
        canary.verify(recorded)


def test_only_http_is_spoken(load):
    with pytest.raises(SettingsError, match="not a valid URL"):
        load(url="file://localhost/etc/passwd")


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://example.com/",
        "http://127.0.0.1@10.0.0.1/",
        "http://[fd00::1]/",
        "http://",
    ],
)
def test_nobody_but_the_engine_beside_us_is_asked(load, url):
    """An archive must not choose whom a pod sends requests to."""
    with pytest.raises(SettingsError, match="loopback"):
        load(url=url)
    with pytest.raises(Corrupt):
        canary.parse({"request": {"url": url, "compare": ["a"]}, "answer": {"a": 1}})


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.2:1", "[::1]:1"])
def test_loopback_has_more_than_one_name(load, host):
    assert load(url=f"http://{host}/").url == f"http://{host}/"


def test_a_manifest_whose_canary_is_none_is_corrupt():
    with pytest.raises(Corrupt):
        canary.parse({"request": {"url": 5}})
