"""What is wrong with weights that do not fit a model, and whose weights they seem to be."""

from collections.abc import Iterable, Mapping
from typing import Any

from reforg.catalog.names import build_config, registry
from reforg.config import Config
from reforg.errors import ConfigError, nearest
from reforg.families import family_of, shapes
from reforg.weights.spellings import official

LISTED = 8  # how many names of a kind a message shows
Shape = tuple[int, ...]


def complaint(found: Mapping[str, Any], wanted: Mapping[str, Shape]) -> str:
    """What is missing, left over and wrongly shaped, with the nearest other name for each; empty where all is well."""
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    reshaped = [name for name in wanted if name in found and shape_of(found[name]) != wanted[name]]
    unreal = [name for name in wanted if name in found and not is_real(found[name])]
    return "; ".join(
        filter(
            None,
            (
                _listed("missing", [name + _near(name, extra) for name in missing[:LISTED]], len(missing)),
                _listed("left over", [name + _near(name, missing) for name in extra[:LISTED]], len(extra)),
                _listed(
                    "wrongly shaped",
                    [f"{name} {shape_of(found[name])} instead of {wanted[name]}" for name in reshaped[:LISTED]],
                    len(reshaped),
                ),
                _listed("not of a real dtype", [f"{name} {found[name].dtype}" for name in unreal[:LISTED]], len(unreal)),
            ),
        )
    )


def guessed(weights: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The models whose tensors these are, each with the settings that differ from its own: number of classes, image size.

    Several where names share their tensors, as ViT, DeiT and EViT do; in alphabetical order.
    """
    found = {name: shape_of(value) for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    guesses = []
    for name in sorted(registry()):
        try:
            settings = _settings(found, build_config(name))
            fits = settings is not None and shapes(build_config(name, **settings)) == found
        except ConfigError:
            continue
        if fits and settings is not None:
            guesses.append((name, settings))
    fewest = min((len(settings) for _, settings in guesses), default=0)
    return [guess for guess in guesses if len(guess[1]) == fewest]


def whose(weights: Mapping[str, Any], family: str) -> str:
    """'; these are the weights of X', the name of the wanted family first; empty where nobody knows them."""
    guesses = sorted(guessed(official(weights).weights), key=lambda guess: build_config(guess[0]).family != family)
    if not guesses:
        return ""
    first, settings = guesses[0]
    changed = "".join(f", {key}={value}" for key, value in settings.items())
    others = f" (or {', '.join(name for name, _ in guesses[1:4])})" if guesses[1:] else ""
    return f"; these are the weights of {first}{changed}{others}"


def _settings(found: Mapping[str, Shape], config: Config) -> dict[str, Any] | None:
    """What these tensors would change of the config: number of classes, and image size by the positions; None if it cannot be."""
    heads = [shape for name, shape in found.items() if name == "head.weight"]
    classes = heads[0][0] if heads else 0
    settings: dict[str, Any] = {} if classes == config.num_classes else {"num_classes": classes}
    positions = family_of(config).positions
    if positions is None:
        return settings
    side = positions.img_size(found, config)
    if side is None:
        return None
    return settings if config.image_shape == (side, side) else settings | {"img_size": side}


def shape_of(value: Any) -> Shape:
    """An array's shape."""
    return tuple(int(side) for side in value.shape)


def is_real(value: Any) -> bool:
    """Whether an array's dtype is one of real numbers, whichever library's it is."""
    return any(word in str(value.dtype) for word in ("float", "int", "bool")) or str(value.dtype)[1:] in ("f2", "f4", "f8")


def _near(name: str, others: Iterable[str]) -> str:
    """' [nearest: X]' for the nearest name on the other side."""
    hint = nearest(name, others)
    return f" [nearest: {hint.removeprefix('; did you mean ').removesuffix('?')}]" if hint else ""


def _listed(what: str, shown: list[str], count: int) -> str:
    rest = f" and {count - len(shown)} more" if count > len(shown) else ""
    return f"{count} {what} ({', '.join(shown)}{rest})" if count else ""
