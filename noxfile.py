"""Every job of the workspace, in one place. `nox --list` explains them; CONTRIBUTING.md says when to use which."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nox
from packaging.version import Version

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "tools"))

import news  # noqa: E402  (the path comes first)
from changed import changed_files, changed_packages  # noqa: E402
from graph import WorkspaceError, closure, read_packages  # noqa: E402
from marked import files_marked  # noqa: E402
from nox_jobs import run_jobs  # noqa: E402

# Without bytecode every process compiles what it imports anew: 14 of the 25 seconds that torch and transformers take.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = (
    "venv"  # never uv: unconstrained, it takes the CUDA build of torch
)
nox.options.sessions = ["lint", "typecheck", "tests"]
nox.options.error_on_external_run = False

try:
    PACKAGES = read_packages()
except WorkspaceError as error:
    sys.exit(f"noxfile: {error}")
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
CONSTRAINTS = ROOT / "constraints.txt"
PIP = {
    "PIP_CONSTRAINT": str(CONSTRAINTS),
    "PIP_BUILD_CONSTRAINT": str(CONSTRAINTS),
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_COMPILE": "1",  # a module is compiled when it is first imported; most never are
}
SOURCES = [str(package.folder / "src") for package in PACKAGES.values()]
# A file is one worker's, so that what its tests share is made once, and ports stay apart.
WORKERS = ("-n", os.environ.get("WORKERS", "2"), "--dist", "loadfile")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# What is tested beside the packages.
FOLDERS = {"seams": "tests", "tools": "tools", "benchmarks": "benchmarks"}
for_each_package = nox.parametrize("package", [nox.param(name, id=name) for name in PACKAGES])
for_each_folder = nox.parametrize(
    "package", [nox.param(name, id=name) for name in [*PACKAGES, *FOLDERS]]
)


# --- the shared environment -------------------------------------------------------------------------------------


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Fill .venv with all packages, editable, and every tool; does nothing when it is up to date."""
    # As a prerequisite it sees the arguments of the job behind it: they are refused where dev is asked for by name.
    if "dev" in sys.argv:
        _no_arguments(session)
    stamp, wanted = VENV / "stamp", _environment_digest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not (BIN / "python").exists():
        session.run(sys.executable, "-m", "venv", str(VENV), external=True)
    stamp.unlink(missing_ok=True)
    groups = nox.project.load_toml(ROOT / "pyproject.toml")["dependency-groups"]["dev"]
    others = {
        str(wanted)
        for package in PACKAGES.values()
        for wanted in (*_outside(package), *package.test_requirements)
    }
    editable = [part for package in PACKAGES.values() for part in ("-e", str(package.folder))]
    # The pip that comes with Python takes three times as long to choose versions.
    _pip(session, "--upgrade", "pip")
    _pip(session, "torch", "hatchling", "editables")
    _pip(session, *sorted(others), *groups)
    # With what builds them at hand: otherwise pip makes an environment for each, which takes longer than the rest of it.
    _pip(session, "--no-build-isolation", "--no-deps", *editable, PIP_BUILD_CONSTRAINT=None)
    stamp.write_text(wanted)


def _environment_digest() -> str:
    files = [ROOT / "pyproject.toml", CONSTRAINTS, *sorted(ROOT.glob("packages/*/pyproject.toml"))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _pip(session: nox.Session, *arguments: str, **environment: str | None) -> None:
    command = (str(BIN / "python"), "-m", "pip", "install", "-q")
    session.run(*command, *arguments, env=PIP | environment, external=True)


def _python(session: nox.Session, *arguments: object, **environment: str) -> None:
    session.run(str(BIN / "python"), *map(str, arguments), env=environment, external=True)


def _pytest(
    session: nox.Session,
    *arguments: str,
    workers: Sequence[str] = WORKERS,
    success_codes: Sequence[int] = (0,),
    **environment: str,
) -> None:
    """With workers of one thread each: models this small gain nothing from a second thread."""
    session.run(
        *(str(BIN / "python"), "-m", "pytest", *workers, *arguments),
        env=(ONE_THREAD if workers else {}) | environment,
        external=True,
        success_codes=success_codes,
    )


def _no_arguments(session: nox.Session) -> None:
    if session.posargs:
        session.error(f"{session.name} takes no argument, got {' '.join(session.posargs)!r}.")


# --- gates ------------------------------------------------------------------------------------------------------


@nox.session(venv_backend="none", requires=["dev"])
def lint(session: nox.Session) -> None:
    """Style, format, import contracts, declared siblings, names on the index as stated, news."""
    _no_arguments(session)
    _python(session, "-m", "ruff", "check", ".")
    _python(session, "-m", "ruff", "format", "--check", ".")
    session.run(
        str(BIN / "lint-imports"),
        "--no-cache",
        env={"PYTHONPATH": os.pathsep.join(SOURCES)},
        external=True,
    )
    _python(session, "tools/siblings.py")
    _python(session, "tools/index_names.py", "check")
    _python(session, "tools/news.py", "check")


@nox.session(venv_backend="none", requires=["dev"])
def typecheck(session: nox.Session) -> None:
    """Mypy, strict, on every package's sources."""
    _no_arguments(session)
    _python(session, "-m", "mypy", *SOURCES)


@nox.session(venv_backend="none", requires=["dev"])
@for_each_folder
def tests(session: nox.Session, package: str) -> None:
    """The tests of one package, of the seams between them, of tools or benchmarks; what stands behind -- goes to pytest."""
    _pytest(session, _folder(package), *session.posargs)


def _folder(package: str) -> str:
    return FOLDERS.get(package, f"packages/{package}")


@nox.session(venv_backend="none", requires=["dev"])
def property(session: nox.Session) -> None:
    """Laws, searched by hypothesis at length."""
    _no_arguments(session)
    _marked(session, "property")


@nox.session(venv_backend="none", requires=["dev"])
@for_each_folder
def slow(session: nox.Session, package: str) -> None:
    """Whole tiny distillations and fault drills of one package, of the seams between them, of tools or benchmarks."""
    _no_arguments(session)
    # In the order given: xdist would put files of few tests last, and those are the longest.
    _marked(session, "slow", "--no-loadscope-reorder", folders=[_folder(package)])


@nox.session(venv_backend="none", requires=["dev"])
def interpret(session: nox.Session) -> None:
    """The Triton kernels, run on the CPU by Triton's interpreter."""
    _no_arguments(session)
    _marked(session, "interpret", TRITON_INTERPRET="1")


@nox.session(venv_backend="none", requires=["dev"])
def gpu(session: nox.Session) -> None:
    """What needs a CUDA device; also runs without nox: `python -m pytest -m gpu`."""
    _no_arguments(session)
    _marked(session, "gpu", workers=())  # the device is one


@nox.session(venv_backend="none", requires=["dev"])
def browser(session: nox.Session) -> None:
    """The HTML report in headless Chromium, which Debian's packages provide where it is missing."""
    _no_arguments(session)
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        if not (shutil.which("apt-get") and os.geteuid() == 0):
            session.error(
                "install chromium and chromium-driver (Debian's names) and run this again."
            )
        session.run("apt-get", "update", "-qq", external=True, silent=True)
        session.run(
            *("apt-get", "install", "-qq", "-y", "--no-install-recommends"),
            *("chromium", "chromium-driver"),
            external=True,
            silent=True,
            env={"DEBIAN_FRONTEND": "noninteractive"},
        )
    _marked(session, "browser")


def _marked(
    session: nox.Session,
    marker: str,
    *arguments: str,
    folders: Sequence[str] = (*FOLDERS.values(), "packages"),
    **options: Any,
) -> None:
    marked = files_marked(marker, [ROOT / folder for folder in folders])
    files = [str(file.relative_to(ROOT)) for file in marked]
    if not files:
        session.skip(f"no test is marked {marker}.")
    nobody_carries_it = 5
    _pytest(
        session, "-m", marker, *arguments, *files, success_codes=(0, nobody_carries_it), **options
    )


@nox.session(venv_backend="none", requires=["dev"])
def readmes(session: nox.Session) -> None:
    """Run what the READMEs and the guides show."""
    _no_arguments(session)
    pages = [*sorted(ROOT.glob("packages/*/README.md")), *sorted(ROOT.glob("docs/*.md"))]
    _python(session, "tools/snippets.py", *pages)


# --- one package alone ------------------------------------------------------------------------------------------


@nox.session(requires=["dev"], venv_params=["--without-pip"])
@for_each_package
def isolated(session: nox.Session, package: str) -> None:
    """Install one package from its wheel, with its siblings' wheels and nothing else of ours, and test it.

    What it requires of others is borrowed from .venv, file by file, as pip itself is: nothing else can be imported, and
    nothing is installed a second time.
    """
    _no_arguments(session)

    def borrow(requirements: list[str]) -> None:
        into = session.virtualenv.location
        _python(session, "tools/borrowed.py", VENV, into, *requirements)

    borrow(["pip"])
    _test_alone(session, PACKAGES, package, borrow)


@nox.session
@for_each_package
def minimums(session: nox.Session, package: str) -> None:
    """As isolated, at the lowest versions that the package declares (torch stays: see constraints.txt)."""
    _no_arguments(session)
    floors = Path(session.create_tmp()) / "floors.txt"
    lowest: dict[str, Version] = {}
    for name in closure(PACKAGES, package):
        for wanted in _outside(PACKAGES[name]):
            floor = next(part.version for part in wanted.specifier if part.operator == ">=")
            lowest[wanted.name] = max(Version(floor), lowest.get(wanted.name, Version("0")))
    lowest["torch"] = Version("2.13.0")
    floors.write_text("".join(f"{name}=={floor}\n" for name, floor in lowest.items()))
    _test_installed(session, PACKAGES, package, floors)


def _test_installed(
    session: nox.Session, packages: dict[str, object], package: str, constraints: Path
) -> None:
    """Test a package in an environment of its own, with what an installer chooses within the constraints."""
    environment = PIP | {"PIP_CONSTRAINT": str(constraints)}

    def install(requirements: list[str]) -> None:
        if any(wanted.startswith("torch>") for wanted in requirements):
            session.install("-q", "torch", env=environment)
        session.install("-q", *requirements, env=environment)

    _test_alone(session, packages, package, install)


def _test_alone(
    session: nox.Session,
    packages: dict[str, object],
    package: str,
    provide: Callable[[list[str]], None],
) -> None:
    """Test a package's wheel where there are its siblings' wheels, what `provide` brings of others, and no more."""
    names = closure(packages, package)
    with tempfile.TemporaryDirectory() as temporary:
        wheels, place = Path(temporary, "wheels"), Path(temporary, "place")
        for name in names:
            _wheel(session, packages[name].folder, wheels)
        ours = [f"{packages[name].distribution}=={packages[name].version}" for name in names]
        session.install("-q", "--no-index", "--find-links", str(wheels), "--no-deps", *ours)
        rest = {str(wanted) for name in names for wanted in _outside(packages[name])}
        rest |= {str(wanted) for wanted in packages[package].test_requirements}
        provide(sorted(rest))
        session.run("python", "-m", "pip", "check", silent=True)
        _copy_tests(place, packages[package].folder)
        with session.chdir(place):
            if any(packages[package].source.glob("cli*")):
                session.run(package, "--version")
                session.run(package, "--help", silent=True)
                session.run("python", "-m", package, "--version", silent=True)
            session.run(
                *("python", "-m", "pytest", "-c", str(ROOT / "pyproject.toml")),
                *("--rootdir", str(place), "-p", "no:cacheprovider", *WORKERS, "tests"),
                env=ONE_THREAD,
            )


def _wheel(session: nox.Session, folder: Path, into: Path) -> None:
    """Build a package's wheel, once for all jobs of this run: also for those of `ci`, which are processes of their own."""
    built = _WHEELS / folder.as_posix().strip("/").replace("/", "-")
    if not built.exists():
        place = Path(tempfile.mkdtemp(dir=_WHEELS))
        arguments = ("wheel", "-q", "--no-deps", "--wheel-dir", str(place), str(folder))
        session.run("python", "-m", "pip", *arguments, env=PIP)
        with contextlib.suppress(OSError):  # a job beside this one has built it meanwhile
            place.rename(built)
    into.mkdir(exist_ok=True)
    shutil.copy(*built.iterdir(), into)


_BUILDING = tempfile.TemporaryDirectory(prefix="wheels")
_WHEELS = Path(os.environ.get("WHEELS", _BUILDING.name))


def _outside(package: object) -> list[object]:
    """What a package requires, extras included, that is not ours."""
    everything = [
        *package.requirements,
        *(wanted for group in package.extras.values() for wanted in group),
    ]
    return [wanted for wanted in everything if wanted not in package.siblings.values()]


def _copy_tests(place: Path, folder: Path) -> None:
    """What travels beside a package's tests: the conftest, the toy world, the pretended GPU, planted outliers and the Python that its tests start."""
    shutil.copytree(folder / "tests", place / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    tools = ROOT / "tools"
    helpers = [
        tools / "planted_outliers.py",
        tools / "preloaded.py",
        tools / "pretended_device.py",
        *sorted(tools.glob("toyworld*.py")),
    ]
    for file in [ROOT / "conftest.py", *helpers]:
        shutil.copy(file, place)


# --- building and releasing -------------------------------------------------------------------------------------


@nox.session(name="hub-kernel", requires=["dev"])
def hub_kernel(session: nox.Session) -> None:
    """Write kdkernels as a kernel of the Hub, and load it with the `kernels` library where the package is not.

    `-- FOLDER` keeps it, as FOLDER/kdkernels. Torch is borrowed from .venv; `kernels` is installed.
    """
    if len(session.posargs) > 1:
        session.error("hub-kernel takes one argument, the folder to write.")
    folder = Path(session.posargs[0] if session.posargs else session.create_tmp()) / "kdkernels"
    _python(session, "tools/hub_kernel.py", folder)
    _python(session, "tools/borrowed.py", VENV, session.virtualenv.location, "torch", "numpy")
    session.install("-q", "kernels>=0.17", env=PIP)
    session.run("python", "tools/hub_kernel_load.py", str(folder), env={"HF_HUB_OFFLINE": "1"})


@nox.session
@for_each_package
def build(session: nox.Session, package: str) -> None:
    """Build one package into dist/NAME and compare what is inside with what should be."""
    _no_arguments(session)
    _build_and_check(session, PACKAGES, package, ROOT)


def _build(session: nox.Session, folder: Path, into: Path, *arguments: str) -> None:
    session.run(
        *("python", "-m", "build", *arguments, "--outdir", str(into), str(folder)), silent=True
    )


def _build_and_check(
    session: nox.Session, packages: dict[str, object], package: str, root: Path
) -> None:
    """Into dist/NAME of the workspace at `root`, whose packages these are."""
    dist = root / "dist" / package
    shutil.rmtree(dist, ignore_errors=True)
    session.install("-q", "build", "packaging", "twine", env=PIP)
    _build(session, packages[package].folder, dist)
    session.run("python", str(root / "tools" / "wheels.py"), package, str(dist))
    session.run("twine", "check", "--strict", *map(str, sorted(dist.iterdir())))


@nox.session
@for_each_package
def release_check(session: nox.Session, package: str) -> None:
    """All that a release does, but on a copy: fold the news, bump, build, test the wheel alone; prints the tag."""
    _no_arguments(session)
    _refuse_dirty(session)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "copy")
        session.run("git", "clone", "-q", str(ROOT), str(copy), external=True)
        _fold(session, read_packages(copy)[package], copy)
        session.run("git", "-C", str(copy), "diff", "--stat", external=True)
        folded = read_packages(copy)
        _build_and_check(session, folded, package, copy)
        _test_installed(session, folded, package, CONSTRAINTS)
    session.log(f"Rehearsed. The tag would be {package}-v{folded[package].version}")


@nox.session(venv_backend="none")
def rehearse(session: nox.Session) -> None:
    """Rehearse the release of every package, or of -- NAMES: news and versions, then release_check, ground first."""
    for name in session.posargs:
        if name not in PACKAGES:
            session.error(f"rehearse knows no package {name!r}: there are {', '.join(PACKAGES)}.")
    wanted = [name for name in PACKAGES if not session.posargs or name in session.posargs]
    _refuse_dirty(session)
    for name in wanted:
        package = PACKAGES[name]
        version = _next(session, package, ROOT)
        session.log(f"{name}: {package.version} stated, {len(news.notes(package))} notes")
        session.log(f"{name}: the tag would be {name}-v{version}")
    for name in wanted:
        session.notify(f"release_check({name})", posargs=())


@nox.session
@for_each_package
def release(session: nox.Session, package: str) -> None:
    """Ask the index for the name, fold the news, bump, commit, build, check, tag; prints the push that publishes."""
    _no_arguments(session)
    _refuse_dirty(session)
    session.install("-q", "packaging", env=PIP)
    session.run("python", "tools/index_names.py", "ask", package)
    version = _fold(session, PACKAGES[package], ROOT)
    tag = f"{package}-v{version}"
    session.run("git", "add", f"packages/{package}", external=True)
    session.run("git", "commit", "-q", "-m", f"{package} {version}", external=True)
    PACKAGES.update(read_packages())
    _build_and_check(session, PACKAGES, package, ROOT)
    _test_installed(session, PACKAGES, package, CONSTRAINTS)
    session.run("git", "tag", "-a", tag, "-m", f"{package} {version}", external=True)
    session.log(f"To publish: git push origin main {tag}")


def _refuse_dirty(session: nox.Session) -> None:
    if session.run("git", "status", "--porcelain", external=True, silent=True):
        session.error("the working tree has changes: commit or stash them, then release.")


def _fold(session: nox.Session, package: object, root: Path) -> object:
    version = _next(session, package, root)
    try:
        news.fold(package, version, datetime.datetime.now(datetime.UTC).date().isoformat())
    except WorkspaceError as error:
        session.error(str(error))
    return version


def _next(session: nox.Session, package: object, root: Path) -> object:
    """The version that the package's news ask for."""
    try:
        notes = news.notes(package)
        last = news.last_release(package, root)
        if not notes:
            session.error(f"{package.name} has no news since {last}: there is nothing to release.")
        return news.next_version(last, package.version, notes.values())
    except WorkspaceError as error:
        session.error(str(error))


# --- the story and the figures ----------------------------------------------------------------------------------


@nox.session(venv_backend="none", requires=["dev"])
def demo(session: nox.Session) -> None:
    """The whole story in the toy world, or, with -- --data DIR, on real text; leaves demo/report.html."""
    _python(session, "examples/demo.py", *session.posargs)


@nox.session(venv_backend="none", requires=["dev"])
def bench(session: nox.Session) -> None:
    """Benchmarks: -- [NAMES] [--full] [--data DIR] [--peers] [--base REF]; writes .bench/report.html."""
    _python(session, "benchmarks/bench.py", *session.posargs)


@nox.session
def site(session: nox.Session) -> None:
    """The READMEs, the guides and the report of the benchmarks as a static site, in site/; a dead link is an error."""
    _no_arguments(session)
    groups = nox.project.load_toml(ROOT / "pyproject.toml")["dependency-groups"]["dev"]
    wanted = [line for line in groups if line.startswith(("markdown-it-py", "packaging"))]
    session.install("-q", *wanted, env=PIP)
    session.run("python", "tools/website.py")


# --- continuous integration -------------------------------------------------------------------------------------


# The order in which `ci` begins its jobs: no long one is left alone at the end. The first compile what they import, and
# the first that borrows it comes when there is bytecode.
LONGEST_FIRST = (
    *("slow(bistil)", "slow(seams)", "lint", "typecheck", "isolated(bistil)", "slow(mergedistill)"),
    *("isolated(mergedistill)", "isolated(xeval)", "slow(vocabmerge)", "readmes", "slow(teacherzoo)"),
    *("tests(seams)", "isolated(teacherzoo)", "isolated(vocabmerge)", "interpret", "tests(tools)"),
    *("tests(benchmarks)", "browser", "isolated(kdkernels)"),
)  # fmt: skip


@nox.session(venv_backend="none", requires=["dev"])  # the jobs of the run below find it done
def ci(session: nox.Session) -> None:
    """Everything that must pass, side by side: -- [--base REF] narrows `isolated` to the packages changed since REF."""
    parser = argparse.ArgumentParser(prog="nox -s ci --", exit_on_error=False)
    parser.add_argument("--base")
    wanted, unknown = parser.parse_known_args(session.posargs)
    if unknown:
        session.error(f"ci knows no argument {unknown[0]!r}: it takes --base REF.")
    try:
        alone = (
            changed_packages(PACKAGES, changed_files(ROOT, wanted.base))
            if wanted.base
            else list(PACKAGES)
        )
    except WorkspaceError as error:
        session.error(str(error))
    # What is tested alone, from its wheel, is not tested a second time in the shared environment.
    jobs = [f"isolated({name})" for name in alone]
    jobs += [f"tests({name})" for name in [*PACKAGES, *FOLDERS] if name not in alone]
    jobs += [
        f"slow({name})"
        for name in [*PACKAGES, *FOLDERS]
        if files_marked("slow", [ROOT / _folder(name)])
    ]
    jobs += ["lint", "typecheck", "interpret", "browser", "readmes"]
    jobs.sort(key=lambda job: LONGEST_FIRST.index(job) if job in LONGEST_FIRST else len(jobs))
    # One more than there are processors: some wait. No workers of their own: what two would share is made once.
    at_once = (os.cpu_count() or 1) + 1
    report = []
    shared = {
        "WHEELS": _BUILDING.name,
        # DeepSpeed's, built anew: a lock that a killed run left in the user's folder would hold every launcher.
        "TORCH_EXTENSIONS_DIR": str(Path(_BUILDING.name, "extensions")),
    }
    for ended in run_jobs(jobs, at_once=at_once, WORKERS="0", **shared):
        session.log(f"{ended.job}: {ended.result} in {ended.seconds:.0f} s\n{ended.printed}")
        report.append({name: text for name, text in asdict(ended).items() if name != "printed"})
    table = ROOT / ".nox" / "jobs.json"
    table.parent.mkdir(exist_ok=True)
    table.write_text(json.dumps(report), encoding="utf-8")
    if failed := [job["job"] for job in report if job["result"] == "failed"]:
        session.error(f"failed: {', '.join(failed)}")
