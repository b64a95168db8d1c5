"""What tells runs apart: {"schema": n, **all that deviates from the defaults of that schema}, and the name that is made of it.

The defaults of a schema are frozen in schema-<n>.json: `settings`, `views`, `recipes`, `methods` and `optimizers` are what every
run of the schema has had. `later` are settings, strengths of a view, keyword arguments of a method and numbers of an optimizer
that came after its first runs: they are part of a name only where they deviate, so that they rename no run. Machine settings are
no part of it. Of a plug-in, "module:attribute", it has the name and the settings, but not the code.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

from sparsehead_cli.data.augment import RECIPES, Augmentation
from sparsehead_cli.errors import SparseheadError, of_system
from sparsehead_cli.foreign.tensors import listed
from sparsehead_cli.machine.files import open_regular
from sparsehead_cli.machine.plugins import is_plugin
from sparsehead_cli.nets.optim import adaptation
from sparsehead_cli.runs.checkpoint import checkpoint_file
from sparsehead_cli.runs.config import FIELDS, Config
from sparsehead_cli.runs.method_settings import method_settings
from sparsehead_cli.runs.settings import Values, read, settings_of, unknown_names
from sparsehead_cli.runs.views import name_of, strengths_of, views_in

SCHEMA = 1  # the newest
# what the names of runs have always been made of, too, when devices and numbers of processes still told runs apart
CONSTANT = {"device": "auto", "processes": 1}
DIGEST = r"sha256-[0-9a-f]{64}"  # what stands for the content of a file
IN_IDENTITY = {"views": "recipe"}  # a setting that identities call otherwise: "views" are the strengths there


@cache
def schema(number: int) -> dict[str, dict]:
    """The frozen defaults with this number. Raises: SparseheadError for one that a later version has made."""
    path = schema_file(number)
    if not path.exists():
        raise SparseheadError(f"settings of schema {number} are not known to this version. Upgrade sparsehead.")
    return json.loads(path.read_text(encoding="utf-8"))


def schema_file(number: int) -> Path:
    """Where a schema is frozen. tests/runs/freeze.py writes it."""
    return Path(__file__).with_name(f"schema-{number}.json")


def frozen_defaults(table: str, name: str | None = None) -> Values:
    """The newest schema's defaults in a table, or of one entry of it: those that were there from the first, and later ones."""
    frozen = schema(SCHEMA)
    first, later = frozen[table], frozen["later"][table]
    return later | first if name is None else later.get(name, {}) | first.get(name, {})


def identity_defaults(stated: type[Config]) -> Values:
    """The defaults of this code for the settings that are part of a run's identity."""
    return {IN_IDENTITY.get(name, name): setting.default for name, setting in settings_of(stated).items() if setting.identity}


def view_deviations(views: Iterable[Augmentation]) -> list[Values]:
    """What each view does otherwise than a view does by default."""
    return [deviations(asdict(view), asdict(type(view)()) | frozen_defaults("views")) for view in views]


def recipe_deviations(name: str) -> list[Values]:
    """What each view of a recipe of this code does otherwise than a view does by default."""
    return view_deviations(RECIPES[name])


def deviations(values: Values, defaults: Mapping[str, object]) -> Values:
    """The values that are not the default, as plain ones."""
    expected = plain(defaults)
    return {name: value for name, value in plain(values).items() if name not in expected or value != expected[name]}


def plain(values: object) -> object:
    """Values as JSON gives them back: tuples become lists."""
    return json.loads(json.dumps(values))


def all_settings(config: Config) -> Values:
    """Every setting that changes the result: those of the run, the method's own numbers, the strengths of the views, LARS's."""
    settings = {}
    for name, stated in settings_of(type(config)).items():
        if stated.identity:
            value = getattr(config, name)
            settings[IN_IDENTITY.get(name, name)] = content_digest(value) if stated.content and value is not None else value
    settings[IN_IDENTITY["views"]] = name_of(config.views)
    settings["method_settings"] = method_settings(config.method, config.method_settings)
    if views := strengths_of(config.views):
        settings["views"] = [asdict(view) for view in views]
    if config.cache == "memory":  # such images are cropped otherwise than those that stream
        settings["cache"] = config.cache
    return plain(settings | adaptation(config.optimizer))


def content_digest(path: Path) -> str:
    """What stands for a file in an identity: the SHA-256 of its content. One that was read from an identity stays what it is.

    Raises: SparseheadError for a file that is not there.
    """
    if re.fullmatch(DIGEST, str(path)) and not path.exists():
        return str(path)
    path = checkpoint_file(path)
    try:
        status = path.stat()
        return hashed(path, status.st_ino, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise of_system(f"cannot read {path}", error, "Give another file.") from None


@cache
def hashed(path: Path, *version: int) -> str:
    """The SHA-256 of a file that the file system says to be of this version. Raises: OSError."""
    with open_regular(path) as file:
        return f"sha256-{hashlib.file_digest(file, 'sha256').hexdigest()}"


def run_identity(config: Config) -> Values:
    """All that makes a run another one than that of the defaults, as plain values."""
    settings = {key: value for key, value in all_settings(config).items() if key not in ("method_settings", "views")}
    defaults = identity_defaults(type(config)) | adaptation(config.optimizer) | frozen_defaults("optimizers", config.optimizer)
    identity = {"schema": SCHEMA, **deviations(settings, defaults | frozen_defaults("settings"))}
    of_method = deviations(
        method_settings(config.method, config.method_settings),
        method_settings(config.method, {}) | frozen_defaults("methods", config.method),
    )
    if of_method:
        identity["method_settings"] = of_method
    if views := strengths_of(config.views):
        changed = view_deviations(views)
        if changed != schema(SCHEMA)["recipes"].get(name_of(config.views)):
            identity["views"] = changed
    return identity


def whole_identity(identity: Values) -> Values:
    """An identity with the defaults of its schema in it, which names are made of.

    That of an older version, which has no schema, has them already.
    """
    if "schema" not in identity:
        return {**identity, "device": CONSTANT["device"]}
    frozen = schema(identity["schema"])
    settings = {**frozen["settings"], **{name: value for name, value in identity.items() if name != "schema"}}
    method, recipe, optimizer = (str(settings[name]) for name in ("method", "recipe", "optimizer"))  # unchecked as yet
    views = identity.get("views", frozen["recipes"].get(recipe, []))
    return {
        **CONSTANT,
        **frozen["optimizers"].get(optimizer, {}),
        **settings,
        "method_settings": frozen["methods"].get(method, {}) | identity.get("method_settings", {}),
        "views": [frozen["views"] | view for view in views],
    }


def is_same_run(stored: Values, identity: Values) -> bool:
    """Whether the identity in a checkpoint, of this version or an older one, is that of a run."""
    if stored.get("schema") == identity["schema"]:
        return stored == identity
    return whole_identity(stored) == whole_identity(identity)


def config_in(identity: Values, experiment: str) -> Config:
    """The settings of the run with this identity, all of them checked; nothing that it names is imported.

    Raises: SparseheadError for settings, or values of them, that this version does not know.
    """
    settings = whole_identity(identity)
    stored = {name: IN_IDENTITY.get(name, name) for name in FIELDS}
    if foreign := sorted(set(settings) - {"method_settings", "views", "processes", "eta", *stored.values()}):
        raise SparseheadError(f"it has settings that this version does not know: {listed(foreign, 5)}. Upgrade sparsehead.")
    values, problems = read(FIELDS, {name: settings[key] for name, key in stored.items() if key in settings})
    if problems:
        raise SparseheadError("\n".join(problems))
    values["views"] = views_in(values["views"], identity.get("views", []))
    config = Config(experiment=experiment, method_settings=dict(settings.get("method_settings", {})), **values)
    if problems := unknown_names(config):
        raise SparseheadError("\n".join(f"{problem} Upgrade sparsehead." for problem in problems))
    if not is_plugin(config.method):
        method_settings(config.method, config.method_settings)
    return config


def run_folder(config: Config, identity: Values) -> Path:
    """Where the run lies; its last part is the run's name.

    A run that an older version began with --device, which was part of its name then, or filed under quickstart though it is
    another one, stays where it is.
    """
    name = run_name(config, whole_identity(identity))
    with_device = run_name(config, {**whole_identity(identity), "device": config.device})
    folder = config.results / config.experiment / name
    older = [config.results / config.experiment / with_device]
    if config.formerly:
        older += [config.results / config.formerly / name, config.results / config.formerly / with_device]
    return folder if folder.exists() else next((path for path in older if path.exists()), folder)


def run_name(config: Config, whole: Values) -> str:
    """Readable, and ending in a hash of the whole identity: simclr-l21-lam1e-04-seed0-3f2a91c."""
    lam = f"{config.lam:.1e}".replace(".0e", "e") if config.lam else "0"
    method, penalty = (name.replace(":", "-") for name in (config.method, config.penalty))
    return f"{method}-{penalty}-lam{lam}-seed{config.seed}-{digest(whole)}"


def digests(identity: Values) -> set[str]:
    """What the name of the run with this identity may end in; older versions named a run after its device, too."""
    return {digest(identity), digest(whole_identity(identity))}


def digest(values: Values) -> str:
    """Seven hexadecimals."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:7]
