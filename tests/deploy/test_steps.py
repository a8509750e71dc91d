"""A deploy and a rollback, step by step, on a host made of stand-ins."""

from __future__ import annotations

import json

import pytest

from host.containers import PORTS
from tests.deploy.conftest import Host
from tests.deploy.stand_ins import photo


def test_the_first_deploy_starts_from_nothing(host: Host):
    """It takes the blue slot, and nothing is kept."""
    first = host.image("first", version="7")
    assert f"{first} serves, model 7." in host.deploy(first).out
    host.assert_in_order(first)
    assert host.state["active"]["slot"] == "blue"
    assert [event["event"] for event in host.journal] == ["deployed"]


def test_a_deploy_replaces_the_release_and_keeps_one(host: Host):
    """The one before is stopped and kept, the one before that is removed."""
    images = [host.image(name) for name in ("first", "second", "third")]
    for image, kept, slot in zip(images, [None, *images], ("blue", "green", "blue"), strict=False):
        host.deploy(image)
        host.assert_in_order(image, kept)
        assert host.state["active"]["slot"] == slot


def test_what_serves_already_is_left_alone(host: Host):
    """The same digest again starts no container."""
    image = host.image("first")
    host.deploy(image)
    before = set(host.engine.containers)
    assert f"{image} serves already." in host.deploy(image).out
    assert set(host.engine.containers) == before


def test_the_same_image_replaces_a_container_that_has_died(host: Host):
    """Serving already means that it answers."""
    image = host.image("first")
    host.deploy(image)
    host.engine.containers[host.state["active"]["container"]].stop()
    assert "serves, model 1." in host.deploy(image).out
    host.assert_in_order(image, image)


REFUSED = {
    "never ready": ({"ready": False}, "check 'ready' failed: {slot} is not ready after 60 s."),
    "ends": ({"crashes": True}, "check 'ready' failed: the container ended by itself."),
    "ends and is started again": (
        {"ready": False, "restarts": True},
        "check 'ready' failed: the container ended by itself.",
    ),
    "cannot be started": (
        {"cannot_start": True},
        "'docker run' failed: Error: no space left on device",
    ),
    "is another image": (
        {"answers": {"/health": (200, '{"deployment": "sha256:other"}')}},
        "check 'identity' failed: {slot} answers as 'sha256:other', not {digest}.",
    ),
    "is no service of ours": (
        {"answers": {"/health": (200, "<html>It works!</html>")}},
        "check 'identity' failed: {slot} answers as None, not {digest}.",
    ),
    "names no model": (
        {"answers": {"/health": (200, '{"deployment": "{digest}"}')}},
        "check 'identity' failed: {slot}/health names no model.",
    ),
    "serves another model than its label's": (
        {"label": "b" * 64},
        "check 'model' failed: the label says bbbbbbbbbbbb, and aaaaaaaaaaaa is served.",
    ),
    "answers wrongly": (
        {"answers": {"/predict": (200, '{"prediction": "dog"}')}},
        "check 'smoke' failed: cat.jpg was taken for a dog: ",
    ),
    "answers something else": (
        {"answers": {"/predict": (200, "[]")}},
        "check 'smoke' failed: cat.jpg was answered without a prediction: []",
    ),
    "fails to answer": (
        {"answers": {"/predict": (500, "a fault")}},
        "check 'smoke' failed: cat.jpg was answered with 500: a fault",
    ),
    "has no metrics": (
        {"answers": {"/metrics": (404, "nothing here")}},
        "check 'smoke' failed: /metrics was answered with 404: nothing here",
    ),
    "wants a key": ({"key": "s3cret"}, "check 'smoke' failed: cat.jpg was answered with 401: no key"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_candidate_that_does_not_pass_is_refused(host: Host, fault: str):
    """The check is named, the candidate's log is shown, the candidate goes, and the release serves on."""
    first, second = host.image("first"), host.image("second")
    host.deploy(first)
    host.deploy(second)
    what, words = REFUSED[fault]
    bad = host.image("bad", **what)
    digest = bad.rsplit("@", 1)[-1]
    for path, (status, text) in host.engine.images[bad].answers.items():
        host.engine.images[bad].answers[path] = status, text.replace("{digest}", digest)
    slot = f"http://127.0.0.1:{PORTS['blue']}"
    done = host.call("deploy", bad)
    assert done.status == 1
    assert done.err.startswith("refused: ")
    assert words.format(slot=slot, digest=digest) in done.err
    assert "bad says what it does\n---\n" in done.err
    assert done.err.endswith(f"{second} serves on.\n")
    host.assert_in_order(second, first)
    assert host.journal[-1]["event"] == "refused"
    assert host.journal[-1]["image"] == bad
    assert host.journal[-1]["reason"] in done.err
    host.deploy(host.image("third"))


def test_a_service_that_takes_a_broken_photo_for_a_whole_one_is_refused(host: Host):
    """Its checks of uploads are part of what is proven."""
    bad = host.image("bad")
    image = host.engine.images[bad]
    original = image.answer

    def careless(path: str, body: bytes, *rest: object) -> tuple[int, str]:
        return original(path, photo("cat") if path == "/predict" and len(body) == 100 else body, *rest)

    image.answer = careless
    done = host.call("deploy", bad)
    assert "check 'smoke' failed: a broken photo was answered with 200, not 422: " in done.err
    assert done.err.endswith("nothing served before.\n")
    assert host.state["active"] is None
    assert host.engine.containers == {}


def test_a_candidate_that_haproxy_does_not_see_gets_no_traffic(host: Host):
    """The proxy has its own check, and the switch waits for it."""
    first = host.image("first")
    host.deploy(first)
    host.haproxy.blind = True
    done = host.call("deploy", host.image("second"))
    assert "haproxy sees no green after 10 s." in done.err
    host.assert_in_order(first)


def test_a_switch_that_callers_do_not_see_is_taken_back(host: Host):
    """The public address is asked, not only the container."""
    first = host.image("first")
    host.deploy(first)
    host.haproxy.deaf = True
    done = host.call("deploy", host.image("second"))
    assert f"check 'public' failed: {host.url} does not answer as the new release." in done.err
    host.haproxy.deaf = False
    host.assert_in_order(first)


def test_the_key_of_the_settings_opens_the_service(host: Host):
    """The smoke test is a caller like any other."""
    settings = host.folder / "service.env"
    settings.write_text("SERVING_LOG_LEVEL=info\nSERVING_API_KEY=s3cret\n")
    image = host.image("first", key="s3cret")
    assert host.call("deploy", image, "--env-file", settings).status == 0
    host.assert_in_order(image)


def test_a_rollback_brings_the_release_before_and_another_one_returns(host: Host):
    """The kept container itself starts again: nothing is pulled or created."""
    first, second = host.image("first"), host.image("second")
    host.deploy(first)
    host.deploy(second)
    before = set(host.engine.containers)
    host.engine.images.clear()
    for serving, kept in ((first, second), (second, first)):
        done = host.call("rollback")
        assert (done.status, done.err) == (0, "")
        assert f"{serving} serves again." in done.out
        host.assert_in_order(serving, kept)
    assert set(host.engine.containers) == before


def test_without_an_earlier_release_there_is_no_rollback(host: Host):
    """And nothing is touched."""
    first = host.image("first")
    host.deploy(first)
    done = host.call("rollback")
    assert (done.status, done.err) == (
        1,
        "refused: There is no earlier release on this host to go back to.\n",
    )
    host.assert_in_order(first)


def test_a_rollback_that_does_not_pass_is_refused_and_kept(host: Host):
    """It is stopped, not removed: it is still the only way back."""
    first, second = host.image("first"), host.image("second")
    host.deploy(first)
    host.deploy(second)
    host.engine.images[first].answers["/predict"] = 500, "a fault"
    done = host.call("rollback")
    assert "cat.jpg was answered with 500" in done.err
    assert done.err.endswith(f"{second} serves on.\n")
    host.assert_in_order(second, first)


def test_a_kept_container_that_will_not_start_is_made_anew_from_its_image(host: Host):
    """A container can be lost or spoilt; the image is what was released."""
    first, second = host.image("first"), host.image("second")
    host.deploy(first)
    host.deploy(second)
    host.engine.containers[host.state["previous"]["container"]].start = lambda: (_ for _ in ()).throw(
        OSError("its layer is gone")
    )
    assert host.call("rollback").status == 0
    host.assert_in_order(first, second)


def test_a_rollback_whose_slot_is_taken_runs_a_new_container_of_its_image(host: Host):
    """Books as another version may have left them: both releases in one slot."""
    first, second = host.image("first"), host.image("second")
    host.deploy(first)
    host.deploy(second)
    state = host.state
    state["previous"]["slot"] = "green"
    (host.state_folder / "state.json").write_text(json.dumps(state))
    assert host.call("rollback").status == 0
    host.assert_in_order(first, second)


def test_open_requests_are_awaited_before_the_old_container_stops(host: Host):
    """It stops when the last one is answered."""
    first, second = host.image("first"), host.image("second")
    host.deploy(first)
    old = host.engine.containers[host.state["active"]["container"]]
    counts = host.haproxy.open_requests["blue"] = [3, 2, 1, 0]
    while_open = []
    old.stop = lambda stop=old.stop: (while_open.append(list(counts)), stop())
    host.deploy(second)
    assert while_open[0] == [0]
    host.assert_in_order(second, first)


def test_requests_that_never_end_do_not_keep_the_old_container(host: Host):
    """After 30 s it is told to stop; what is open is then its own to drain."""
    first, second = host.image("first"), host.image("second")
    host.deploy(first)
    host.haproxy.open_requests["blue"] = [1]
    before = host.clock.seconds
    host.deploy(second)
    assert 30 < host.clock.seconds - before < 40
    host.assert_in_order(second, first)
