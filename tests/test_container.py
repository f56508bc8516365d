"The container: what its files name is there; where Docker or Podman works, it is built and asked."

import fnmatch
import json
import re
import shutil
import subprocess
import time
from configparser import ConfigParser
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
import typer
from conftest import free_port

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
KEY = "a-key-for-the-test"
MAX_MB = 500


def read_stages(text):
    "Stage -> its instructions, (word, rest), after those of the stage that it is built from."
    stages = {}
    for line in re.sub(r"\\\n", "", text).splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            steps = stages[name] = list(stages.get(parent, []))
        elif line and not line.startswith("#"):
            steps.append((word, rest.strip()))
    return stages


STAGES = read_stages(DOCKERFILE)
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def last(stage, word):
    return [rest for step, rest in STAGES[stage] if step == word][-1]


def test_the_last_stage_is_the_service_and_compose_has_both():
    assert [*STAGES][-1] == "service"
    assert {name: one["build"]["target"] for name, one in COMPOSE.items()} == {"app": "app", "service": "service"}


@pytest.mark.parametrize("stage", ["app", "service"])
def test_the_command_is_one_of_fer_nb(stage):
    from fer_nb.cli import app

    program, name, *options = json.loads(last(stage, "CMD"))
    command = typer.main.get_command(app).commands[name]
    command.make_context(name, options)  # an option that is not there is an error
    assert program == "fer-nb"


@pytest.mark.parametrize("stage", ["app", "service"])
def test_a_stage_is_not_root_and_its_health_is_what_is_served(stage):
    assert last(stage, "USER") not in ("root", "0")
    assert [*dict(STAGES[stage])].index("USER") < [*dict(STAGES[stage])].index("CMD")
    assert any("ORT_DISABLE_TELEMETRY=1" in rest for word, rest in STAGES[stage] if word == "ENV")
    port, path = re.search(r"http://localhost:(\d+)(/[\w/]+)", last(stage, "HEALTHCHECK")).groups()
    assert port == last(stage, "EXPOSE")
    if stage == "service":
        from fer_nb.service.server import PATHS, PUBLIC_PATHS

        assert path in PATHS and path in PUBLIC_PATHS  # without the key


@pytest.mark.parametrize("stage", ["app", "service"])
def test_what_is_installed_is_named_in_settings_ini(stage):
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini")
    (install,) = [rest for word, rest in STAGES[stage] if word == "RUN" and "pip install" in rest]
    extras = re.search(r"'/src\[(.+)\]'", install)[1].split(",")
    assert all(f"{name}_requirements" in config["DEFAULT"] for name in extras)
    for name in re.findall(r"/src/([\w.]+)", install):
        assert name in let_in()


def let_in():
    "The files of the repository that .dockerignore lets into a build."
    words = (ROOT / ".dockerignore").read_text().split("\n")
    patterns = [word[1:] for word in words if word.startswith("!")]
    files = [str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)]
    for pattern in patterns:
        assert any(fnmatch.fnmatch(file, pattern) for file in files), f"{pattern} is in .dockerignore and nowhere else"
    return files


def test_what_the_package_is_made_of_comes_into_the_build():
    needed = ["setup.py", "settings.ini", "pyproject.toml", "app.py", ".streamlit", "fer_nb", "models/face_short.onnx"]
    assert set(needed) <= set(let_in())


@pytest.mark.parametrize("name", ["app", "service"])
def test_compose_hardens_and_listens_on_this_machine_only(name):
    service = COMPOSE[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    (address, outside, inside) = service["ports"][0].split(":")
    assert address == "127.0.0.1" and outside == inside == last(name, "EXPOSE")


def test_the_service_in_compose_gets_its_key_from_outside():
    assert COMPOSE["service"]["environment"] == ["FER_NB_API_KEY"]  # and no value


def test_hadolint_finds_nothing():
    if not shutil.which("hadolint"):
        pytest.skip("hadolint is not installed")
    done = subprocess.run(["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# --- built and run, where that is possible ---


def engine():
    "Docker or Podman, whichever works here."
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    pytest.skip("neither Docker nor Podman runs here")


@pytest.fixture(scope="module")
def image():
    "The image of the service, built here."
    tool = engine()
    name = re.search(r"^FROM (\S+)", DOCKERFILE, re.M)[1]
    here = subprocess.run([tool, "image", "inspect", name], capture_output=True).returncode == 0
    if not here and (pulled := subprocess.run([tool, "pull", name], capture_output=True, text=True)).returncode:
        pytest.skip(f"{name} cannot be pulled: {pulled.stderr[-200:]}")
    built = subprocess.run([tool, "build", "--tag", "fer_nb-test", ROOT], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    yield tool, "fer_nb-test"
    subprocess.run([tool, "rmi", "--force", "fer_nb-test"], capture_output=True)


def test_the_image_is_small(image):
    tool, name = image
    shown = subprocess.run([tool, "image", "inspect", "--format", "{{.Size}}", name], capture_output=True, text=True)
    print(f"{int(shown.stdout) / 1e6:.0f} MB")
    assert int(shown.stdout) < MAX_MB * 1e6


@pytest.fixture
def container(image):
    "A service that runs as compose.yaml runs it: its address."
    tool, name = image
    port = free_port()
    command = f"{tool} run --detach --rm --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"
    command = [*command.split(), "--publish", f"127.0.0.1:{port}:8000", "--env", f"FER_NB_API_KEY={KEY}", name]
    started = subprocess.run(command, capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    number = started.stdout.strip()
    yield tool, number, f"http://127.0.0.1:{port}"
    subprocess.run([tool, "kill", number], capture_output=True)


def test_the_service_answers_from_a_container_that_cannot_be_written(container, photos):
    tool, number, address = container
    for _ in range(150):
        try:
            assert urlopen(f"{address}/healthz").read() == b"alive\n"
            break
        except (URLError, ConnectionError):
            time.sleep(0.2)
    photo, kind = (photos / "face.png").read_bytes(), {"Content-Type": "image/png"}
    with pytest.raises(HTTPError, match="401"):
        urlopen(Request(f"{address}/v1/recognize", photo, kind))
    answer = json.load(urlopen(Request(f"{address}/v1/recognize", photo, kind | {"Authorization": f"Bearer {KEY}"})))
    assert len(answer["results"][0]["faces"]) == 1

    def inside(*words):
        return subprocess.run([tool, "exec", number, *words], capture_output=True, text=True)

    assert inside("id", "-u").stdout.strip() == "1000"
    assert inside("touch", "/home/app/x").returncode != 0
    check = json.loads(last("service", "HEALTHCHECK").partition("CMD ")[2])
    assert inside(*check).returncode == 0
