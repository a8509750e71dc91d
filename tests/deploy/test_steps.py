"""Deploys and rollbacks, step by step, on a simulated host."""

from __future__ import annotations

import json

import pytest

from host.books import PORTS
from tests.deploy.conftest import Host
from tests.deploy.stand_ins import photo


def test_the_first_deploy_starts_from_nothing(host: Host):
    """It uses the blue slot and keeps nothing."""
    first = host.image("first", version="7")
    assert f"{first} serves, model 7." in host.deploy(first).out
    host.assert_in_order(first)
    assert host.state["active"]["slot"] == "blue"
    assert [event["event"] for event in host.journal] == ["deployed"]


def test_a_deploy_replaces_the_release_and_keeps_one(host: Host):
    """The previous one is stopped and kept, the one before it removed."""
    images = [host.image(name) for name in ("first", "second", "third")]
    for image, kept, slot in zip(images, [None, *images], ("blue", "green", "blue"), strict=False):
        host.deploy(image)
        host.assert_in_order(image, kept)
        assert host.state["active"]["slot"] == slot


def test_deploying_the_active_image_changes_nothing(host: Host):
    """The same digest starts no container."""
    image = host.image("first")
    host.deploy(image)
    before = set(host.engine.containers)
    assert f"{image} is serving already." in host.deploy(image).out
    assert set(host.engine.containers) == before


def test_the_same_image_replaces_a_container_that_has_died(host: Host):
    """An image counts as serving only if it answers; it does not start again."""
    image = host.image("first")
    host.deploy(image)
    died = host.engine.containers[host.state["active"]["container"]]
    died.stop()
    died.start = lambda: None
    assert "serves, model 1." in host.deploy(image).out
    host.assert_in_order(image, image)


def test_a_release_that_has_died_starts_again_with_the_next_call(host: Host):
    """The engine may have given it up, or an operator may have stopped it."""
    image = host.image("first")
    host.deploy(image)
    host.engine.containers[host.state["active"]["container"]].stop()
    done = host.deploy(image)
    assert "the active release, is not running; start it again" in done.out
    assert "is serving already." in done.out
    host.assert_in_order(image)


def test_images_that_no_release_needs_are_removed(host: Host):
    """Each takes hundreds of megabytes; the two that are kept stay."""
    images = [host.image(name) for name in ("first", "second", "third")]
    for image in images:
        host.deploy(image)
    assert host.engine.removed == images[:1]
    bad = host.image("bad", label="b" * 64)
    host.call("deploy", bad)
    assert host.engine.removed == [images[0], bad]


def test_the_reason_is_shown_even_if_nothing_is_left_that_serves(host: Host):
    """The candidate's fault comes first, then what became of the release."""
    first = host.image("first")
    host.deploy(first)
    died = host.engine.containers[host.state["active"]["container"]]
    died.stop()
    died.start = lambda: None
    done = host.call("deploy", host.image("bad", label="b" * 64))
    assert done.status == 1
    assert done.err.startswith("refused: check 'model' failed")
    assert f"{first} does not answer either: deploy another image, or roll back." in done.err
    host.deploy(host.image("good"))


def test_a_container_that_nobody_knows_is_removed(host: Host):
    """An engine that was away could not remove it, and it has the port."""
    first = host.image("first")
    host.deploy(first)
    host.engine.run(
        [
            "docker",
            "run",
            "--name",
            "lost",
            "--publish",
            f"h:{PORTS['green']}:8000",
            "--env",
            "DEPLOYMENT=",
            first,
        ]
    )
    second = host.image("second")
    assert "remove lost, which an earlier call left" in host.deploy(second).out
    host.assert_in_order(second, first)


def test_prometheus_finds_the_slot_that_serves(host: Host):
    """The idle one is no target, so it raises no alert."""
    targets = host.state_folder / "targets.json"
    assert host.call("init").status == 0
    assert json.loads(targets.read_text()) == []
    for name, slot in (("first", "blue"), ("second", "green")):
        host.deploy(host.image(name))
        found = {"targets": [f"127.0.0.1:{PORTS[slot]}"], "labels": {"job": "classifier", "slot": slot}}
        assert json.loads(targets.read_text()) == [found]


REFUSED = {
    "never ready": (
        {"ready": False},
        "check 'ready' failed: {slot} is not ready after 60 s. If it starts slowly, raise --ready-seconds.",
    ),
    "exits": ({"crashes": True}, "check 'ready' failed: the container exited; its log is below."),
    "exits and is restarted": (
        {"ready": False, "restarts": True},
        "check 'ready' failed: the container exited; its log is below.",
    ),
    "cannot be started": (
        {"cannot_start": True},
        "'docker run' failed: Error: no space left on device",
    ),
    "is another image": (
        {"answers": {"/health": (200, '{"deployment": "sha256:other"}')}},
        (
            "check 'identity' failed: {slot} reports deployment 'sha256:other', not {digest}. Does another "
            "service use the address?"
        ),
    ),
    "is another service": (
        {"answers": {"/health": (200, "<html>It works!</html>")}},
        (
            "check 'identity' failed: {slot} reports deployment None, not {digest}. Does another "
            "service use the address?"
        ),
    ),
    "reports no model": (
        {"answers": {"/health": (200, '{"deployment": "{digest}"}')}},
        "check 'identity' failed: {slot}/health reports no model. Does another service use the address?",
    ),
    "serves another model than its label's": (
        {"label": "b" * 64},
        (
            "check 'model' failed: the image is labelled with model bbbbbbbbbbbb but serves aaaaaaaaaaaa. "
            "Build the image again."
        ),
    ),
    "predicts wrongly": (
        {"answers": {"/predict": (200, '{"prediction": "dog"}')}},
        (
            "check 'smoke' failed: cat.jpg was predicted as dog. For a model of other classes name photos of "
            "yours with --smoke or SMOKE=. Response: "
        ),
    ),
    "returns no prediction": (
        {"answers": {"/predict": (200, "[]")}},
        "check 'smoke' failed: cat.jpg got no prediction. Response: []",
    ),
    "fails": (
        {"answers": {"/predict": (500, "a fault")}},
        "check 'smoke' failed: cat.jpg got status 500. Response: a fault",
    ),
    "has no metrics": (
        {"answers": {"/metrics": (404, "nothing here")}},
        (
            "check 'smoke' failed: /metrics got status 404 or lacks classifier_requests_total. "
            "Response: nothing here"
        ),
    ),
    "requires a key": (
        {"key": "s3cret"},
        (
            "check 'smoke' failed: cat.jpg got status 401. "
            "Pass the API key with --env-file or SERVING_API_KEY. Response: no key"
        ),
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_candidate_that_fails_a_check_is_refused(host: Host, fault: str):
    """The error names the check and shows the log; the release keeps serving."""
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
    assert "bad logs its work\n---\n" in done.err
    assert done.err.endswith(f"{second} keeps serving.\n")
    host.assert_in_order(second, first)
    assert host.journal[-1]["event"] == "refused"
    assert host.journal[-1]["image"] == bad
    assert host.journal[-1]["reason"] in done.err
    host.deploy(host.image("third"))


def test_a_service_that_accepts_a_broken_photo_is_refused(host: Host):
    """The smoke test covers the validation of uploads."""
    bad = host.image("bad")
    image = host.engine.images[bad]
    original = image.answer

    def careless(path: str, body: bytes, *rest: object) -> tuple[int, str]:
        return original(path, photo("cat") if path == "/predict" and len(body) == 100 else body, *rest)

    image.answer = careless
    done = host.call("deploy", bad)
    assert "check 'smoke' failed: a broken photo got status 200, not 422. Response: " in done.err
    assert done.err.endswith("Nothing was serving before.\n")
    assert host.state["active"] is None
    assert host.engine.containers == {}


def test_a_candidate_that_haproxy_does_not_see_gets_no_traffic(host: Host):
    """The switch waits for haproxy's own health check."""
    first = host.image("first")
    host.deploy(first)
    host.haproxy.blind = True
    done = host.call("deploy", host.image("second"))
    assert "haproxy's health check does not see the green slot up after 10 s. Does " in done.err
    host.assert_in_order(first)


def test_a_switch_that_callers_do_not_see_is_reverted(host: Host):
    """The public address is checked, not only the container."""
    first = host.image("first")
    host.deploy(first)
    host.haproxy.deaf = True
    done = host.call("deploy", host.image("second"))
    assert f"check 'public' failed: {host.url} does not report the new release." in done.err
    host.haproxy.deaf = False
    host.assert_in_order(first)


def test_the_smoke_test_uses_the_key_of_the_settings(host: Host):
    """It is a caller like any other."""
    settings = host.folder / "service.env"
    settings.write_text("SERVING_LOG_LEVEL=info\nSERVING_API_KEY=s3cret\n")
    image = host.image("first", key="s3cret")
    assert host.call("deploy", image, "--env-file", settings).status == 0
    host.assert_in_order(image)


def test_a_rollback_returns_to_the_previous_release_and_a_second_one_undoes_it(host: Host):
    """The kept container starts again; nothing is pulled or created."""
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


def test_a_rollback_from_another_image_than_what_serves_is_refused(host: Host):
    """A pipeline takes back what it has deployed, and nothing that came since or before."""
    first, second = host.image("first"), host.image("second")
    host.deploy(first)
    host.deploy(second)
    done = host.call("rollback", first)
    assert (done.status, done.err) == (
        1,
        f"refused: {second} is deployed, not {first}: nothing to roll back.\n",
    )
    host.assert_in_order(second, first)
    assert host.call("rollback", second).status == 0
    host.assert_in_order(first, second)


def test_a_rollback_without_a_previous_release_is_refused(host: Host):
    """Nothing changes."""
    first = host.image("first")
    host.deploy(first)
    done = host.call("rollback")
    words = "There is no earlier release on this host to roll back to. Deploy the digest that you want."
    assert (done.status, done.err) == (1, f"refused: {words}\n")
    host.assert_in_order(first)


def test_a_rollback_that_fails_a_check_is_refused_and_kept(host: Host):
    """It is stopped, not removed: no other release is kept for a rollback."""
    first, second = host.image("first"), host.image("second")
    host.deploy(first)
    host.deploy(second)
    host.engine.images[first].answers["/predict"] = 500, "a fault"
    done = host.call("rollback")
    assert "cat.jpg got status 500" in done.err
    assert done.err.endswith(f"{second} keeps serving.\n")
    host.assert_in_order(second, first)


def test_a_kept_container_that_does_not_start_is_created_again_from_its_image(host: Host):
    """A container can be lost or damaged; the image is what was released."""
    first, second = host.image("first"), host.image("second")
    host.deploy(first)
    host.deploy(second)
    host.engine.containers[host.state["previous"]["container"]].start = lambda: (_ for _ in ()).throw(
        OSError("its layer is gone")
    )
    assert host.call("rollback").status == 0
    host.assert_in_order(first, second)


def test_a_rollback_whose_slot_is_taken_runs_a_new_container_of_its_image(host: Host):
    """Another version of deploy.py may have saved both releases in one slot."""
    first, second = host.image("first"), host.image("second")
    host.deploy(first)
    host.deploy(second)
    state = host.state
    state["previous"]["slot"] = "green"
    (host.state_folder / "state.json").write_text(json.dumps(state))
    assert host.call("rollback").status == 0
    host.assert_in_order(first, second)


def test_open_requests_are_awaited_before_the_old_container_stops(host: Host):
    """It stops once the last one is answered."""
    first, second = host.image("first"), host.image("second")
    host.deploy(first)
    old = host.engine.containers[host.state["active"]["container"]]
    counts = host.haproxy.open_requests["blue"] = [3, 2, 1, 0]
    while_open = []
    old.stop = lambda stop=old.stop: (while_open.append(list(counts)), stop())
    host.deploy(second)
    assert while_open[0] == [0]
    host.assert_in_order(second, first)


def test_requests_that_never_end_do_not_keep_the_old_container_running(host: Host):
    """After 30 s it gets the signal to stop and drains the rest itself."""
    first, second = host.image("first"), host.image("second")
    host.deploy(first)
    host.haproxy.open_requests["blue"] = [1]
    before = host.clock.seconds
    host.deploy(second)
    assert 30 < host.clock.seconds - before < 40
    host.assert_in_order(second, first)
