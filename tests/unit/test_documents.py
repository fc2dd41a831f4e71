"""The documents say what the code does, and a reader finds them from the README."""

import re
import runpy
from pathlib import Path

import typer.main
import yaml

from dynamo_entry.ctl import app
from dynamo_entry.kube import config
from dynamo_entry.kube.identity import identity_hash
from dynamo_entry.kube.operator import jobs
from dynamo_entry.kube.webhook import admission
from dynamo_entry.protocol import Result
from dynamo_entry.settings import PREFIX, VARIABLES

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = (
    *ROOT.glob("*.md"),
    *DOCS.glob("*.md"),
    ROOT / "tests" / "README.md",
    ROOT / "findings" / "README.md",
)
CODE = "\n".join(path.read_text() for path in (ROOT / "dynamo_entry").rglob("*.py"))

#: Names of the kernel that the documents tell of and nothing here has to do with.
OF_THE_KERNEL = {"MAP_DROPPABLE", "UFFDIO_COPY"}


def found(pattern, pages=PAGES):
    """(page, match) of every match in code of the pages: between backticks, or in a block."""
    for page in pages:
        for code in re.findall(r"^```.*?^```|`[^`\n]+`", page.read_text(), re.DOTALL | re.MULTILINE):
            for match in re.finditer(pattern, code):
                yield page.name, match


def anchors(page):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def test_the_reference_is_made_from_the_code():
    made = runpy.run_path(str(ROOT / "scripts/lib/reference.py"))
    assert (DOCS / "reference.md").read_text() == made["page"](), "run scripts/reference"


def test_the_reference_has_every_field_of_a_result():
    whole = Result(
        "failed", "dump", "Reason", "message", True, {}, "location", "digest", 1, 1, 1, 1, "refusal"
    )
    fields = {"v", "elapsed_s", *whole.reportable()}
    assert {name for name in fields if f"`{name}`" not in (DOCS / "reference.md").read_text()} == set()


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= 1200


def test_every_document_is_one_click_from_the_readme():
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", README.read_text()))
    assert {path.name for path in DOCS.glob("*.md")} - linked == set()


def test_every_relative_link_leads_somewhere():
    broken = set()
    for page in PAGES:
        for file, _, anchor in (
            target.partition("#") for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text())
        ):
            there = page.parent / file if file else page
            if not there.exists() or (anchor and anchor not in anchors(there)):
                broken.add(f"{page.name}: {file}#{anchor}")
    assert broken == set()


def test_every_variable_that_is_named_exists():
    named = {(page, match[1]) for page, match in found(rf"\b{PREFIX}([A-Z_]*[A-Z])\b")}
    assert named
    assert {(page, name) for page, name in named if name not in VARIABLES} == set()


def test_every_name_in_capitals_is_one_of_the_code():
    """Variables without their prefix, other programs' that are read or tried, build arguments, constants."""
    folders = ("dynamo_entry", "images", "scripts", "tests", "charts")
    files = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    known = {*VARIABLES, *OF_THE_KERNEL}
    for path in files:
        if path.suffix != ".pyc" and path != Path(__file__):
            known |= {*re.findall(r"[A-Z][A-Z0-9_]+", path.read_text(errors="replace"))}
    named = {(page, match[1]) for page, match in found(r"^`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=.*)?`$")}
    assert named
    assert {(page, name) for page, name in named if name not in known} == set()


def test_every_reason_to_look_up_exists():
    rows = re.findall(
        r"^\| (`\w+`(?:, `[\w…]+`)*) \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE
    )
    rows += re.findall(r"^\| (`[A-Z]\w+`) \|", (DOCS / "compatibility.md").read_text(), re.MULTILINE)
    reasons = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(reasons) > 100
    assert {name for name in reasons if not re.search(rf'"{name}"|class {name}\(', CODE)} == set()


def test_every_verb_and_option_of_the_tool_exists():
    verbs = typer.main.get_command(app).commands
    missing = set()
    for page, match in found(r"dynamo-entryctl (?:\S+/\S+ )?([a-z]+)\b([^`\n|]*)"):
        options = (
            {option for parameter in verbs[match[1]].params for option in parameter.opts}
            if match[1] in verbs
            else ()
        )
        named = re.findall(r"(?<!\S)--[a-z-]+", match[2])
        if match[1] not in verbs or set(named) - {*options}:
            missing.add(f"{page}: {match[0]}")
    assert missing == set()


def test_every_script_part_and_option_exists():
    missing = set()
    for page, match in found(r"\bscripts/([\w-]+)(?: ([a-z][\w-]*))?([^`\n|#&]*)"):
        script, part, rest = match.groups(default="")
        path = ROOT / "scripts" / script
        if script == "lib":
            continue
        text = path.read_text() if path.exists() else ""
        if script == "bench":
            text = "".join(one.read_text() for one in (ROOT / "scripts/lib/bench").rglob("*.py"))
            is_part = (ROOT / f"scripts/lib/bench/{part}.py").exists() or not part
        else:
            text += "".join(one.read_text() for one in (ROOT / "scripts/lib").glob("*.py"))
            is_part = re.search(rf"\b{part}\b", text)
        named = set(re.findall(r"(?<!\S)--[a-z][a-z-]+", rest)) - {"--help"}
        if not path.exists() or not is_part or (script != "test" and any(name not in text for name in named)):
            missing.add(f"{page}: {match[0]}")
    assert missing == set()


def arguments(containerfile):
    return set(re.findall(r"^ARG (\w+)", (ROOT / "images" / containerfile).read_text(), re.MULTILINE))


def test_every_build_argument_exists():
    known = set().union(*(arguments(path) for path in (ROOT / "images").rglob("Containerfile*")))
    assert {(page, match[1]) for page, match in found(r"--build-arg (\w+)") if match[1] not in known} == set()


def test_the_image_from_source_takes_the_arguments_that_the_quick_start_says():
    lacks = arguments("Containerfile") - arguments("Containerfile.source") - {"BUILDER", "IMAGE_ID"}
    assert lacks == {"STORES", "SNAPSHOT"}


def test_every_argument_of_an_image_has_a_default():
    """But for what may be empty: a build without any argument says what it lacks, or works."""
    required = {
        (path.name, line)
        for path in (ROOT / "images").glob("Containerfile*")
        for line in re.findall(r"^ARG \w+$", path.read_text(), re.MULTILINE)
    }
    assert required == set()


def test_every_yaml_can_be_read():
    for page in PAGES:
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            assert yaml.safe_load(block), f"{page.name}: {block}"


def test_the_checkpoint_that_the_page_shows_is_admitted_and_makes_a_job():
    page = (DOCS / "kubernetes.md").read_text()
    shown = re.search(r"^```yaml\n(apiVersion.*?)^```", page, re.DOTALL | re.MULTILINE)[1]
    checkpoint = yaml.safe_load(shown)
    assert admission.validate(None, checkpoint) == ""
    checkpoint["metadata"]["uid"] = "made by the API server"
    hash_ = identity_hash(checkpoint["spec"]["identity"])
    job = jobs.creation(config.parse(""), checkpoint, hash_, force=False)
    assert f"job/{job['metadata']['name']}" in page


#: What a reader has to know before trusting an installation, and no other test shows.
TOLD = {
    "kubernetes.md": [
        "whoever may create Jobs can mount any Secret, and use any ServiceAccount, of that namespace",
        "`operator.watchNamespaces` limits that", "`checkpoint.dryRun: false` takes `pods create` away",
        "`webhook.certificates.mode: cert-manager` the right to change the webhook's configuration",
        "holds the storage's credentials, so its nodes are trusted with all archives", "With `admissionPolicies.enabled`",
    ],
    "security.md": [
        "an engine that runs as root has `CHECKPOINT_RESTORE` and `SYS_PTRACE` after a cold start, a creation and a restore",
        "Without `SETPCAP` a program cannot take a capability away from its children",
    ],
}  # fmt: skip


def test_what_a_right_implies_is_told():
    """RBAC and capabilities give more than their names say."""
    for page, sentences in TOLD.items():
        text = " ".join((DOCS / page).read_text().split())
        assert [sentence for sentence in sentences if sentence not in text] == []
