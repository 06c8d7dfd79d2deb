"""Which mix a request asks for: one meaning for every accepted form."""

from __future__ import annotations

from starlette.requests import Request

from lorikeet_adapters.errors import LorikeetError, MixRefused
from lorikeet_adapters.mix import Mix, Term, parse_mix
from lorikeet_adapters.recipe import MajoritySign, Method, Recipe
from lorikeet_server.api.access_log import note_mix
from lorikeet_server.api.blame import blaming
from lorikeet_server.api.caller import view_of
from lorikeet_server.api.mix_body import MergedAdapters, MixFields
from lorikeet_server.api.services import Services
from lorikeet_server.errors import RequestRefused


def lease_mix(
    http: Request,
    model: str,
    body: MixFields,
    count: int = 1,
    *,
    model_field: str = "model",
    user: str | None = None,
) -> Mix:
    """Resolve `model`, sent as `model_field`, and the body's own mix into generations and lease them `count` times.

    An alias with several targets sends the same `user` always to the same one.
    A body that carries a mix names the base (or nothing) as its model: two mixes at once would leave
    open which one is meant. Raises what `Registry.lease` raises, and RequestRefused.
    """
    services: Services = http.app.state.services
    view = view_of(http)
    field, terms = mix_field(body), _body_terms(body)
    if terms is not None and model not in ("", view.base_name):
        raise RequestRefused(
            f"{model_field}: `{model}` and `{field}` both say which mix is meant; "
            f"send one of them, or `{view.base_name}` beside `{field}`",
            param=model_field,
        )
    try:
        with blaming(field, LorikeetError):
            if terms is None:
                terms = parse_mix(model or view.base_name, view.is_name)
            Mix.of(terms)  # once by the names written, so that a refusal speaks of those
            recipe = _lorax_recipe(body.merged_adapters)
            if recipe is not None:
                mix = services.merges.lease(view, recipe, terms, count, user)
            else:
                mix = view.lease(terms, count, user)
    except MixRefused as error:
        raise RequestRefused(str(error), param=field, code="invalid_mix") from None
    named = [term.adapter for term in terms]
    note_mix(http, model or view.base_name, [each for each in named if each != view.base_name])
    return mix


def mix_field(body: MixFields) -> str:
    """The field that says which mix is meant. Raises RequestRefused when two do."""
    named = [field for field in ("adapters", "merged_adapters", "lora") if getattr(body, field)]
    if len(named) > 1:
        raise RequestRefused(f"{' and '.join(named)} are forms of the same mix; send one", param=named[0])
    return named[0] if named else "model"


def generation_header(mix: Mix) -> dict[str, str]:
    """`x-lorikeet-generation`: the generations used. The base alone has none, and no header."""
    return {"x-lorikeet-generation": ",".join(mix.adapters)} if mix.adapters else {}


def _body_terms(body: MixFields) -> tuple[Term, ...] | None:
    if body.adapters:
        return tuple(Term(each.name, each.weight) for each in body.adapters)
    if body.merged_adapters:
        return _lorax_terms(body.merged_adapters)
    return tuple(Term(each.id, each.scale) for each in body.lora) if body.lora else None


def _lorax_recipe(merged: MergedAdapters | None) -> Recipe | None:
    """How LoRAX's strategies are made; `linear` needs no making."""
    if merged is None or merged.merge_strategy == "linear":
        return None
    sign = MajoritySign(merged.majority_sign_method)
    return Recipe(Method(merged.merge_strategy), merged.density, sign)


def _lorax_terms(merged: MergedAdapters) -> tuple[Term, ...]:
    weights = merged.weights or [1.0] * len(merged.ids)
    if len(weights) != len(merged.ids):
        raise RequestRefused(
            "merged_adapters: number of adapter IDs must match number of adapter weights",
            param="merged_adapters",
        )
    return tuple(Term(name, weight) for name, weight in zip(merged.ids, weights, strict=True))
