"""Adapters private to tenants: to everyone else there is no such name, in whatever form it is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from lorikeet_adapters.source import open_folder
from lorikeet_adapters.tar import pack_files
from lorikeet_server.engine.request import Request
from lorikeet_server.engine.stats import EngineStats
from lorikeet_server.errors import TenantBusy
from lorikeet_server.metrics import Metrics
from tests.server.keyed import Keyed, keyed
from tests.server.world import BASE, Script, Scripted, Server, World, finished, post, token

MISSING = "no-such"
TEXT = {"prompt": "Hello", "max_tokens": 2, "temperature": 0}


@pytest.fixture
def house(server: Server, tmp_path: Path) -> Iterator[Keyed]:
    """`formal` is acme's, `friendly` acme's and beta's, `triage` everyone's; `ours` is an alias of acme's."""
    with keyed(server, tmp_path) as made:
        operator = made.by("operator")
        for name, tenants in (("formal", ["acme"]), ("friendly", ["acme", "beta"])):
            answer = operator.patch(f"/v1/adapters/{name}", json={"tenants": tenants})
            assert answer.json()["tenants"] == tenants
        targets = [{"name": "triage"}, {"name": "formal", "weight": 0}]
        assert operator.put("/v1/aliases/ours", json={"targets": targets}).status_code == 201
        yield made


def upload(client: TestClient, folder: Path, name: str, **query: str) -> Any:
    with open_folder(folder) as files:
        _, pieces = pack_files(files)
        content = b"".join(pieces)
    headers = {"content-type": "application/x-tar"}
    return client.post("/v1/adapters", params={"name": name, **query}, content=content, headers=headers)


Ask = Callable[[TestClient, str], Any]
NATIVE = {"max_new_tokens": 2}
FORMS: dict[str, Ask] = {
    "model": lambda client, name: post(client, "/v1/completions", {**TEXT, "model": name}),
    "chat": lambda client, name: post(
        client,
        "/v1/chat/completions",
        {"model": name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    ),
    "weighted": lambda client, name: post(client, "/v1/completions", {**TEXT, "model": f"{name}:0.5"}),
    "blend": lambda client, name: post(
        client, "/v1/completions", {**TEXT, "model": f"triage:0.5+{name}:0.5"}
    ),
    "no weight": lambda client, name: post(client, "/v1/completions", {**TEXT, "model": f"triage+{name}:0"}),
    "stream": lambda client, name: post(client, "/v1/completions", {**TEXT, "model": name, "stream": True}),
    "adapters": lambda client, name: post(
        client, "/v1/completions", {**TEXT, "model": BASE, "adapters": [{"name": name, "weight": 0.5}]}
    ),
    "lora": lambda client, name: post(
        client, "/v1/completions", {**TEXT, "model": BASE, "lora": [{"id": name, "scale": 0.5}]}
    ),
    "merged": lambda client, name: post(
        client, "/v1/completions", {**TEXT, "model": BASE, "merged_adapters": {"ids": [name, "triage"]}}
    ),
    "ties": lambda client, name: post(
        client,
        "/v1/completions",
        {
            **TEXT,
            "model": BASE,
            "merged_adapters": {"ids": [name], "merge_strategy": "ties", "density": 0.5},
        },
    ),
    "native": lambda client, name: post(
        client, "/generate", {"inputs": "Hi", "parameters": {**NATIVE, "adapter_id": name}}
    ),
    "native stream": lambda client, name: post(
        client, "/generate_stream", {"inputs": "Hi", "parameters": {**NATIVE, "adapter_id": name}}
    ),
    "native merged": lambda client, name: post(
        client,
        "/generate",
        {"inputs": "Hi", "parameters": {**NATIVE, "merged_adapters": {"ids": [name, "triage"]}}},
    ),
    "card": lambda client, name: client.get(f"/v1/models/{name}"),
    "record": lambda client, name: client.get(f"/v1/adapters/{name}"),
    "alias": lambda client, name: client.get(f"/v1/aliases/{name}"),
    "history": lambda client, name: client.get(f"/v1/adapters/history/{name}"),
    "patch": lambda client, name: client.patch(f"/v1/adapters/{name}", json={"metadata": {"a": 1}}),
    "take": lambda client, name: client.patch(f"/v1/adapters/{name}", json={"tenants": ["beta"]}),
    "activate": lambda client, name: post(client, f"/v1/adapters/activate/{name}", {"generation": "0" * 64}),
    "delete": lambda client, name: client.delete(f"/v1/adapters/{name}"),
    "delete if": lambda client, name: client.delete(f"/v1/adapters/{name}", headers={"if-match": "*"}),
    "delete alias": lambda client, name: client.delete(f"/v1/aliases/{name}"),
    "target": lambda client, name: client.put("/v1/aliases/mine", json={"targets": [{"name": name}]}),
    "compose": lambda client, name: post(
        client, "/v1/adapters/compose", {"name": "mine", "adapters": [{"name": name}]}
    ),
}


@pytest.mark.safety("security 1")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["formal", "ours"])
def test_what_is_private_to_another_is_answered_like_what_is_not_there(
    house: Keyed, form: str, name: str
) -> None:
    """The two answers differ in nothing but the name that was sent."""
    before = house.by("operator").get("/v1/adapters").json()
    private, missing = FORMS[form](house.by("beta"), name), FORMS[form](house.by("beta"), MISSING)
    assert private.status_code in (404, 412)
    assert private.text.replace(name, MISSING) == missing.text
    assert private.status_code == missing.status_code
    dropped = {"x-request-id", "content-length"}
    assert {key: value for key, value in private.headers.items() if key not in dropped} == {
        key: value for key, value in missing.headers.items() if key not in dropped
    }
    assert house.by("operator").get("/v1/adapters").json() == before


@pytest.mark.parametrize("form", [*list(FORMS)[:15]])
def test_whoever_may_use_it_can_in_every_form(house: Keyed, form: str) -> None:
    for key, names in (
        ("acme", ("formal", "friendly")),
        ("beta", ("friendly",)),
        ("operator", ("formal", "friendly")),
    ):
        for name in names:
            answer = FORMS[form](house.by(key), name)
            assert answer.status_code == 200, answer.text


def names(client: TestClient, path: str) -> set[str]:
    return {each["id"] for each in client.get(path).json()["data"]}


def test_lists_have_what_may_be_used(house: Keyed) -> None:
    everyones = {BASE, "triage"}
    assert names(house.by("operator"), "/v1/models") == everyones | {"formal", "friendly", "ours"}
    assert names(house.by("acme"), "/v1/models") == everyones | {"formal", "friendly", "ours"}
    assert names(house.by("beta"), "/v1/models") == everyones | {"friendly"}
    assert names(house.by("beta"), "/v1/adapters") == {"triage", "friendly"}
    assert names(house.by("beta"), "/v1/aliases") == set()
    assert names(house.by("acme"), "/v1/aliases") == {"ours"}


def test_access_is_judged_anew_on_every_request(house: Keyed) -> None:
    ask = FORMS["model"]
    assert ask(house.by("beta"), "friendly").status_code == 200
    house.by("operator").patch("/v1/adapters/friendly", json={"tenants": ["acme"]})
    assert ask(house.by("beta"), "friendly").status_code == 404
    house.by("operator").patch("/v1/adapters/friendly", json={"tenants": ["*"]})
    assert house.by("operator").get("/v1/adapters/friendly").json()["tenants"] is None
    assert ask(house.by("beta"), "friendly").status_code == 200


def test_what_a_tenant_uploads_is_its_own(house: Keyed, world: World) -> None:
    beta, folder = house.by("beta"), world.adapters["triage"]
    made = upload(beta, folder, "mine")
    assert (made.status_code, made.json()["tenants"]) == (201, ["beta"])
    assert FORMS["model"](beta, "mine").status_code == 200
    assert FORMS["model"](house.by("acme"), "mine").status_code == 404
    assert beta.patch("/v1/adapters/mine", json={"metadata": {"a": 1}}).status_code == 200
    assert beta.put("/v1/aliases/my-alias", json={"targets": [{"name": "mine"}]}).status_code == 201
    assert FORMS["model"](house.by("acme"), "my-alias").status_code == 404
    assert beta.delete("/v1/aliases/my-alias").status_code == 200
    made = post(
        beta, "/v1/adapters/compose", {"name": "both", "adapters": [{"name": "mine"}, {"name": "friendly"}]}
    )
    assert (made.status_code, made.json()["tenants"]) == (201, ["beta"])
    assert beta.delete("/v1/adapters/mine").status_code == 200


def test_a_taken_name_is_taken_and_shows_no_more(house: Keyed, world: World) -> None:
    for name in ("formal", "ours"):
        for query in ({}, {"replace": "true"}):
            answer = upload(house.by("beta"), world.adapters["formal"], name, **query)
            assert answer.status_code == 409
            assert answer.json()["error"]["message"] == f"`{name}` is taken; choose another name"
        answer = house.by("beta").put(f"/v1/aliases/{name}", json={"targets": [{"name": "triage"}]})
        assert answer.json()["error"]["message"] == f"`{name}` is taken; choose another name"


def test_what_is_shared_only_the_operator_changes(house: Keyed, world: World) -> None:
    acme = house.by("acme")
    for name in ("friendly", "triage"):
        generation = acme.get(f"/v1/adapters/{name}").json()["generation"]
        for answer in (
            acme.patch(f"/v1/adapters/{name}", json={"metadata": {"a": 1}}),
            acme.patch(f"/v1/adapters/{name}", json={"tenants": ["acme"]}),
            acme.delete(f"/v1/adapters/{name}"),
            post(acme, f"/v1/adapters/activate/{name}", {"generation": generation}),
            acme.put("/v1/aliases/new", json={"targets": [{"name": name}]}),
            upload(acme, world.adapters[name], name),
            upload(acme, world.adapters["formal"], name, replace="true"),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_yours"), answer.text
    assert acme.delete("/v1/aliases/ours").status_code == 403
    assert acme.patch("/v1/adapters/formal", json={"metadata": {"a": 1}}).status_code == 200


def test_what_only_the_operator_may_say(house: Keyed, world: World) -> None:
    acme = house.by("acme")
    own = world.adapters["formal"]
    for answer in (
        acme.patch("/v1/adapters/formal", json={"tenants": ["beta"]}),
        acme.patch("/v1/adapters/formal", json={"tenants": ["acme", "beta"]}),
        acme.patch("/v1/adapters/formal", json={"tenants": ["*"]}),
        acme.patch("/v1/adapters/formal", json={"pinned": True}),
        upload(acme, own, "new", tenants='["*"]'),
        upload(acme, own, "new", pinned="true"),
        post(acme, "/v1/adapters", {"name": "new", "source": {"type": "local", "path": "formal"}}),
        post(acme, "/v1/adapters?dry_run=true", {"source": {"type": "local", "path": "formal"}}),
        post(acme, "/v1/adapters", {"name": "new", "source": {"type": "hub", "repo": "org/name"}}),
        post(
            acme, "/v1/adapters/compose", {"name": "n", "adapters": [{"name": "formal"}], "tenants": ["beta"]}
        ),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_yours"), answer.text
    assert house.by("operator").get("/v1/adapters/formal").json()["tenants"] == ["acme"]


def test_a_pin_is_the_operators_to_give_and_to_take(house: Keyed) -> None:
    operator, acme = house.by("operator"), house.by("acme")
    assert operator.patch("/v1/adapters/formal", json={"pinned": True}).json()["pinned"]
    refused = acme.patch("/v1/adapters/formal", json={"pinned": False})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_yours"), refused.text
    assert acme.patch("/v1/adapters/formal", json={"pinned": True, "metadata": {"a": 1}}).json()["pinned"]
    assert acme.patch("/v1/adapters/formal", json={"metadata": {"a": 2}}).json()["pinned"]
    assert acme.patch("/v1/adapters/no-such", json={"pinned": True}).status_code == 404
    operator.patch("/v1/adapters/formal", json={"tenants": ["beta"]})
    assert acme.patch("/v1/adapters/formal", json={"pinned": False}).status_code == 404


@pytest.mark.parametrize("tenants", [[], ["a b"], ["../x"], ["*", "acme"], [""], ["é"], ["a" * 65]])
def test_tenants_that_cannot_be_are_400(house: Keyed, tenants: list[str]) -> None:
    answer = house.by("operator").patch("/v1/adapters/formal", json={"tenants": tenants})
    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("invalid_tenants", "tenants")


def test_a_replacement_and_a_null_stay_private(house: Keyed) -> None:
    operator = house.by("operator")
    source = {"type": "local", "path": "triage"}
    made = post(
        operator, "/v1/adapters", {"name": "formal", "source": source, "replace": True, "tenants": None}
    )
    assert made.json()["tenants"] == ["acme"]
    assert operator.patch("/v1/adapters/formal", json={"tenants": None}).json()["tenants"] == ["acme"]


def test_a_combination_is_for_those_who_may_use_its_parts(house: Keyed) -> None:
    operator = house.by("operator")

    def compose(name: str, *parts: str, **more: Any) -> Any:
        body = {"name": name, "adapters": [{"name": each} for each in parts], **more}
        return post(operator, "/v1/adapters/compose", body)

    assert compose("open", "triage").json()["tenants"] is None
    assert compose("both", "triage", "friendly").json()["tenants"] == ["acme", "beta"]
    assert compose("one", "formal", "friendly").json()["tenants"] == ["acme"]
    assert compose("behind", "ours").json()["tenants"] == ["acme"]
    assert compose("said", "formal", tenants=["*"]).json()["tenants"] is None
    operator.patch("/v1/adapters/friendly", json={"tenants": ["beta"]})
    refused = compose("nobody", "formal", "friendly")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_composition")


def test_of_what_is_shared_a_tenant_does_not_learn_with_whom(house: Keyed) -> None:
    seen = house.by("beta").get("/v1/adapters/friendly").json()
    assert (seen["tenants"], seen["provenance"]) == (["beta"], None)
    made = {"name": "composed", "adapters": [{"name": "formal"}], "tenants": ["*"]}
    assert post(house.by("operator"), "/v1/adapters/compose", made).status_code == 201
    for path in ("/v1/adapters", "/v1/adapters/composed", "/v1/models"):
        answer = house.by("beta").get(path)
        assert "acme" not in answer.text
        assert "formal" not in answer.text


def test_a_name_that_was_anothers_brings_no_history(house: Keyed, world: World) -> None:
    upload(house.by("acme"), world.adapters["triage"], "passed-on")
    house.by("acme").delete("/v1/adapters/passed-on")
    assert house.by("beta").get("/v1/adapters/history/passed-on").status_code == 404
    upload(house.by("beta"), world.adapters["friendly"], "passed-on")
    seen = house.by("beta").get("/v1/adapters/history/passed-on").json()["data"]
    assert [each["event"] for each in seen] == ["registered"]
    whole = house.by("operator").get("/v1/adapters/history/passed-on").json()["data"]
    assert [each["event"] for each in whole] == ["registered", "deleted", "registered"]


def told(client: TestClient, path: str) -> list[tuple[str, list[str]]]:
    """What a history says, the newest first: each event with the names of its targets."""
    answer = client.get(path).json()
    return [
        (each["event"], [target["name"] for target in each["targets"] or []])
        for each in answer.get("history", answer.get("data"))
    ]


@pytest.mark.safety("security 1")
def test_a_history_names_nothing_that_is_private_to_others(house: Keyed) -> None:
    """An alias that was acme's and becomes everyone's brings nothing of acme's along."""
    operator, beta = house.by("operator"), house.by("beta")
    assert operator.put("/v1/aliases/ours", json={"targets": [{"name": "friendly"}]}).status_code == 200
    assert operator.put("/v1/aliases/ours", json={"targets": [{"name": "triage"}]}).status_code == 200
    for path in ("/v1/aliases/ours", "/v1/adapters/history/ours"):
        assert told(beta, path) == [("alias_set", ["triage"]), ("alias_set", ["friendly"])]
        assert len(told(operator, path)) == 3
        assert "formal" not in beta.get(path).text
    assert "formal" not in beta.get("/v1/aliases").text
    operator.patch("/v1/adapters/formal", json={"tenants": ["*"]})
    assert "formal" not in beta.get("/v1/aliases/ours").text, "it was private then"
    assert beta.get("/v1/adapters/history/ours", params={"limit": 1}).json()["has_more"]


@pytest.mark.safety("security 1")
@pytest.mark.parametrize("at_once", [True, False], ids=["with other bytes", "as it is"])
def test_a_name_that_is_shared_later_brings_no_private_past(
    house: Keyed, world: World, at_once: bool
) -> None:
    """Whether the operator opens it by itself or in the breath that replaces it."""
    operator, beta = house.by("operator"), house.by("beta")
    private = operator.get("/v1/adapters/formal").json()["generation"]
    if at_once:
        given = {"replace": "true", "tenants": '["*"]'}
        assert upload(operator, world.adapters["triage"], "formal", **given).status_code == 201
    else:
        assert upload(operator, world.adapters["triage"], "formal", replace="true").status_code == 201
        operator.patch("/v1/adapters/formal", json={"tenants": ["*"]})
    seen = beta.get("/v1/adapters/history/formal")
    assert [each["event"] for each in seen.json()["data"]] == ["replaced" if at_once else "updated"]
    assert private not in seen.text
    assert private in operator.get("/v1/adapters/history/formal").text
    operator.patch("/v1/adapters/formal", json={"metadata": {"now": "shared"}})
    assert len(told(beta, "/v1/adapters/history/formal")) == 2


def test_idempotency_keys_do_not_cross_tenants(house: Keyed) -> None:
    """The same key and the same words: each tenant's own work is done, and its own answer given."""
    body = {"name": "made", "adapters": [{"name": "friendly"}]}
    headers = {"idempotency-key": "once"}
    first = house.by("acme").post("/v1/adapters/compose", json=body, headers=headers)
    again = house.by("acme").post("/v1/adapters/compose", json=body, headers=headers)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    other = house.by("beta").post("/v1/adapters/compose", json=body, headers=headers)
    assert other.status_code == 409
    assert "idempotency-replayed" not in other.headers
    assert "acme" not in other.text


@pytest.mark.safety("metrics 3")
def test_private_names_are_in_no_metric(house: Keyed) -> None:
    for form in ("model", "blend", "native", "ties"):
        assert FORMS[form](house.by("acme"), "formal").status_code == 200
    generation = house.by("acme").get("/v1/adapters/formal").json()["generation"]
    text = house.by("scraping").get("/metrics").text
    assert not [word for word in ("formal", generation[:12], "acme", *house.secrets.values()) if word in text]
    assert re.search(r'lorikeet_adapter_requests_total\{adapter="_private"\} [1-9]', text), (
        "but counted they are"
    )


@pytest.mark.safety("security 12")
def test_the_engine_knows_whose_request_it_is(house: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prefix cache's salt and the fair shares are by `Request.tenant`."""
    seen: list[str] = []
    submit = house.server.engine.submit
    monkeypatch.setattr(
        house.server.engine, "submit", lambda request: (seen.append(request.tenant), submit(request))
    )
    for key in ("acme", "operator", "beta"):
        for form in ("model", "chat", "native", "stream", "native stream", "ties"):
            assert FORMS[form](house.by(key), "friendly").status_code == 200
    assert seen == ["acme"] * 6 + [""] * 6 + ["beta"] * 6


def test_a_tenant_over_its_bound_is_429_and_the_others_go_on(
    shared: tuple[Server, TestClient], tmp_path: Path
) -> None:
    def refuse(request: Request) -> Script:
        if request.tenant == "acme":
            raise TenantBusy("2 requests of your tenant are waiting or running, it may have 2")
        return Script(token(request), finished(request))

    server = shared[0]
    services = replace(server.services, requests=Scripted(refuse), metrics=Metrics(EngineStats, "fp32"))
    with keyed(replace(server, services=services), tmp_path, running=False) as house:
        for form in ("model", "native"):
            answer = FORMS[form](house.by("acme"), BASE if form == "model" else "")
            assert answer.status_code == 429
            assert 0 < int(answer.headers["retry-after"]) <= 120
            assert FORMS[form](house.by("beta"), BASE if form == "model" else "").status_code == 200
        text = house.by("scraping").get("/metrics").text
    assert 'lorikeet_rejections_total{reason="overloaded"} 2.0' in text


@pytest.mark.safety("security 7")
@pytest.mark.parametrize("path", ["formal", "nowhere", "../outside", "/etc"])
def test_a_tenant_learns_nothing_of_the_operators_folders(house: Keyed, path: str) -> None:
    answer = post(house.by("acme"), "/v1/load_lora_adapter", {"lora_name": "probe", "lora_path": path})
    assert answer.status_code == 403
    assert path not in answer.text


def test_what_may_be_meant_is_only_what_the_tenant_sees(house: Keyed) -> None:
    """`formal` is acme's and `ours` an alias on it: to beta a slip is just a name that nobody has."""

    def told(who: str, name: str) -> str:
        answers = [ask(house.by(who), name) for ask in (FORMS["model"], FORMS["blend"])]
        answers.append(house.by(who).post("/v1/tokenize", json={"model": name, "prompt": "Hi"}))
        messages = {answer.json()["error"]["message"] for answer in answers}
        assert [answer.status_code for answer in answers] == [404] * 3
        (message,) = messages
        assert isinstance(message, str)
        return message

    assert "did you mean `formal`?" in told("acme", "formall")
    assert "did you mean" not in told("beta", "formall")
    assert "did you mean `friendly`?" in told("beta", "frendly")
    assert "did you mean `triage`?" in told("beta", "triag")
    assert "did you mean `ours`?" in told("acme", "our")
    assert "did you mean" not in told("beta", "our")
    for path in ("/v1/adapters/ours", "/v1/adapters/history/ours"):
        assert "alias" not in house.by("beta").get(path).text
