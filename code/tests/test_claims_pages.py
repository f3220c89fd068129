"""What the pages beside the chapters say is so: landing page, runs, glossary, references, guide, README."""

import ast
import importlib.metadata
import json
import math
import re
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import torch
from conftest import claim, page_text
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import notebooks
from resnetbook import blocks, compare, models, probes, runs

ROOT = notebooks.BOOK.parent
README = "../README"
PAGES = ["intro", "runs", "glossary", "references", "instructors", README, "../CONTRIBUTING"]
CHAPTERS = {path.name[:2]: path for path in notebooks.paths([])}


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def sources(chapter: str, kind: str = "code") -> list[str]:
    """The cells of one kind, as they are written."""
    cells = nbformat.read(CHAPTERS[chapter], as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == kind]


# ---------------------------------------------------------------------------------------------------
# The promise, and where numbers come from


@pytest.mark.parametrize("page", PAGES)
def test_no_page_claims_more_than_records_hold(page):
    # Live cells, cited figures and trials that were not kept are no recorded runs.
    text = page_text(page).lower()
    for words in ("every number traces", "every claim", "every measured accuracy", "nobody typed a number."):
        assert words not in text, words


def test_the_promise_is_kept():
    benches = list((runs.RECORDS / "bench").glob("*.json"))
    for words, holds in {
        "Each long training left a record.": len(runs.names()) > 100,
        "Chapter 10's speeds have a record of another kind: `python code/tools/bench.py`": benches
        and all("bench" in json.loads(path.read_text())["command"] for path in benches),
        "some recipes were chosen in short trials that were not recorded": any(
            "trials that were not recorded" in experiment.about for experiment in runs.EXPERIMENTS.values()
        ),
    }.items():
        claim("intro", words, bool(holds))
    claim("06", "the trials were not recorded")


def test_what_the_page_of_runs_says_of_a_record_is_so():
    records = [runs.load(name) for name in runs.names()]
    # The test set is read once, after the last epoch: no epoch knows anything of it.
    once = all(
        isinstance(record["test_accuracy"], float)
        and not any("test" in key for entry in record["history"] for key in entry)
        for record in records
    )
    claim("runs", "The test images are used once for each run, at the end", once)
    claim(
        "runs",
        "`speed-90-cpu` went back to 60,000 training images because with 50,000 a seed stayed below 0.90",
    )
    assert {record["num_images"] for record in runs.load_seeds("speed-90-cpu")} == {60_000}
    smoothed = {record["name"] for record in records if record["recipe"].get("label_smoothing")}
    claim("runs", "Where a recipe smooths its labels, the loss is that of the smoothed ones", bool(smoothed))
    none = [record for record in records if not record["held_out"]]
    without = all(entry["valid_accuracy"] is None for record in none for entry in record["history"])
    claim("runs", "Where none were, there is none", bool(none) and without)
    claim("runs", "multiply-adds of the convolutions and the linear layers")


def test_what_the_landing_page_says_of_chapters_is_so():
    switch = [str(int(chapter)) for chapter in CHAPTERS if "runs.use(" in "\n".join(sources(chapter))]
    named = f"chapters {', '.join(switch[:-1])} and {switch[-1]}"
    claim("intro", f"A switch near the top of {named}")
    printed = " ".join(notebooks.text_outputs(nbformat.read(CHAPTERS["04"], as_version=4)))
    ran = re.findall(r"ResNet-(\d+): the outputs are torchvision's", printed)
    claim("intro", f"outputs of ResNet-{' and '.join(ran)}", len(ran) == 2)
    claim("intro", "names, shapes and costs of all five", printed.count("names and shapes, all param") == 5)
    claim("intro", "the same weights after ten steps")
    claim("05", "same weights after ten steps")


MINUTES = {
    "about half a minute": 1,
    "about one minute": 1,
    "about a minute and a half": 2,
    "one to two minutes": 2,
    "about two minutes": 2,
}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_minutes_to_run_are_those_of_the_chapter(chapter):
    told = re.search(r"minutes to read, (.+?) to run on two CPU cores", page_text(chapter))[1]
    row = re.search(
        rf"\]\({CHAPTERS[chapter].name}\).*\| \d+ min \| (\d+) min \| \d+ min \|", read("book/intro.md")
    )
    assert int(row[1]) == MINUTES[told]
    claim("instructors", "Each runs in two minutes or less on two CPU cores.", MINUTES[told] <= 2)


# ---------------------------------------------------------------------------------------------------
# Glossary


def glossary() -> dict[str, dict[str, str]]:
    """Each entry's meaning (``"en"``) and its names in the other languages."""
    body = re.search(r":::\{glossary\}\n(.*?):::", read("book/glossary.md"), re.S)[1]
    entries = {}
    for chunk in re.split(r"\n\n(?=\S)", body.strip()):
        term, rest = chunk.split("\n", 1)
        meaning, others = rest.strip().split("\n\n")
        names = re.findall(r"(es|zh|ja) \[(.*?)\]\{\.language-\1\}", others)
        entries[term] = {
            "en": " ".join(meaning.split()),
            **{code: name.replace("*", "") for code, name in names},
        }
    return entries


def names(entry: dict[str, str], language: str) -> list[str]:
    """The term itself and its other names, which stand in parentheses."""
    return [name.strip() for name in re.split(r"[(),、]", entry[language]) if name.strip()]


# As the literature of each language has them; for Chinese in parentheses those of d2l's translation.
TERMS = {
    ("jump", "es"): "paso acumulado",
    ("schedule", "es"): "planificación de la tasa de aprendizaje",
    ("running statistics", "es"): "estadísticas móviles",
    ("small stem", "es"): "stem pequeño",
    ("underflow", "es"): "subdesbordamiento",
    ("exploding gradient", "es"): "explosión del gradiente",
    ("global average pooling", "es"): "agrupación global por promedio",
    ("stem", "zh"): "起始层",
    ("small stem", "zh"): "小图像起始层",
    ("standard error", "zh"): "标准误",
    ("channels-last", "zh"): "通道在后",
    ("unrolled view", "ja"): "展開した見方",
    ("silence test", "ja"): "沈黙テスト",
    ("running statistics", "ja"): "移動平均統計量",
}
D2L_ZH = {
    "pooling": "汇聚",
    "max-pooling": "最大汇聚",
    "average pooling": "平均汇聚",
    "global average pooling": "全局平均汇聚",
    "batch normalization": "批量规范化",
    "augmentation": "图像增广",
    "accuracy": "精度",
    "epoch": "迭代周期",
    "feature map": "特征映射",
}


def test_terms_are_those_of_each_languages_literature():
    entries = glossary()
    for (term, language), name in TERMS.items():
        assert names(entries[term], language)[0] == name, (term, language)
    for term, name in D2L_ZH.items():
        assert name in names(entries[term], "zh")[1:], term


@pytest.mark.parametrize("language", ["es", "zh", "ja"])
def test_no_two_terms_share_a_name(language):
    # A filter is no kernel: the book tells them apart.
    owners: dict[str, str] = {}
    for term, entry in glossary().items():
        for name in names(entry, language):
            assert owners.setdefault(name, term) == term, f"{name}: {owners[name]} and {term}"
    assert owners[{"es": "kernel", "zh": "卷积核", "ja": "カーネル"}[language]] == "kernel"


def test_digits_and_range_of_16_bits():
    for dtype, digits in ((torch.bfloat16, "2.4"), (torch.float16, "3.3")):
        # The significand has one bit more than the exponent of eps tells.
        computed = (1 - math.log2(torch.finfo(dtype).eps)) * math.log10(2)
        name = str(dtype).removeprefix("torch.")
        assert f"about {digits} decimal digits" in glossary()[name]["en"]
        assert f"{computed:.1f}" == digits
    claim("instructors", "3.3 decimal digits where bfloat16 has 2.4")
    half = [torch.tensor(value).half().item() for value in (65_504.0, 65_600.0, 3.1e-8, 2.9e-8)]
    holds = half[0] == 65_504 and half[1] == math.inf and half[2] > 0 and half[3] == 0
    claim("glossary", "clearly above 65,504 it is infinite, and below about 0.00000003 it is zero", holds)


def test_what_the_glossary_says_of_speed_is_what_the_bench_measured():
    bench = json.loads((runs.RECORDS / "bench" / "cpu.json").read_text(encoding="utf-8"))
    gains = [
        side["contestants"]["ours, channels-last, bfloat16"]["median"]
        / side["contestants"]["ours, channels-last"]["median"]
        for side in bench["sides"].values()
    ]
    claim(
        "glossary",
        "a training gets faster, by less than twice on the machine of",
        1 < min(gains) <= max(gains) < 2,
    )
    # MFU's divisor is by definition the theoretical peak; ours is what some kernel reached.
    measured = all(peak["kernel"] and peak["shape"] for peak in bench["peaks"].values())
    claim("glossary", "as a share of the machine's theoretical peak", True)
    claim("glossary", "divide by the fastest kernel that was measured", measured)
    for page in ("glossary", "references"):
        assert "theoretical peak" in page_text(page), page


def test_what_the_glossary_says_of_differences_is_so():
    generator = torch.Generator().manual_seed(0)
    agree, paired_is_narrower = True, 0
    for shift in (0.0, 0.5, 1.0, 2.0) * 25:
        before = torch.randn(5, generator=generator)
        after = before + shift + 0.3 * torch.randn(5, generator=generator)
        paired = compare.paired_difference(before.tolist(), after.tolist())
        unpaired = compare.unpaired_difference(before.tolist(), after.tolist())
        agree &= all((found.p_value < 0.05) == found.clear for found in (paired, unpaired))
        paired_is_narrower += paired.error < unpaired.error
    claim("glossary", "It is below 0.05 exactly where the 95 percent interval leaves out 0.", agree)
    claim("glossary", "drops out of the difference", paired_is_narrower > 90)
    # "the smallest must be at most 0.05 / k, the next at most 0.05 / (k − 1), and so on"
    stands = [compare.holm(p) for p in ([0.016, 0.024, 0.9], [0.017, 0.024, 0.9], [0.016, 0.026, 0.04])]
    holds = stands == [[True, True, False], [False, False, False], [True, False, False]]
    claim("glossary", "the smallest must be at most 0.05 / $k$, the next at most 0.05 / ($k$ − 1)", holds)
    values = [[0.0, 1.0] * number for number in (2, 20)]
    few, many = (compare.unpaired_difference(both, both).interval for both in values)
    claim("glossary", "Fewer runs make it wider.", few[1] - few[0] > many[1] - many[0])


def test_numbers_in_the_glossary():
    smoothed = torch.full((10,), 0.1 / 10)
    smoothed[0] += 0.9
    claim(
        "glossary", "0.91 for the right class and 0.01", smoothed[:2].tolist() == pytest.approx([0.91, 0.01])
    )
    with torch.device("meta"):
        nets = [models.resnet18(), models.resnet152()]
    widths = {m.out_channels for net in nets for m in net.modules() if isinstance(m, torch.nn.Conv2d)}
    claim("glossary", "there are 64 to 2,048", (min(widths), max(widths)) == (64, 2048))


# ---------------------------------------------------------------------------------------------------
# References


def test_every_citation_stands_in_the_references():
    listed = set(re.findall(r"\]\((https?://[^)\s]+)\)", read("book/references.md")))
    texts = {chapter: "\n".join(sources(chapter, "markdown")) for chapter in CHAPTERS}
    texts |= {page: read(f"book/{page}.md") for page in ("intro", "instructors", "glossary", "runs")}
    for where, text in texts.items():
        # A citation is a link that ends with a year; a link by arXiv number or DOI is one in any case.
        for name, address in re.findall(r"\[([^\]]+)\]\((https?://[^)\s]+)\)", text):
            if re.search(r"\b(19|20)\d\d\b", name) or "arxiv.org" in address or "doi.org" in address:
                assert address in listed, f"{where}: {name} {address}"


def test_what_the_references_say_of_highway_networks_is_so():
    x, layers = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.5])
    gate = torch.tensor([1.0, 0.0])
    highway = gate * layers + (1 - gate) * x  # Srivastava and others, their equation 3
    closed = highway[0] == layers[0] and highway[1] == x[1]
    claim("references", "What a gate lets through the layers it takes from the shortcut", bool(closed))
    claim(
        "references",
        "a residual block has no gate, and adds both in full",
        not torch.equal(highway, layers + x),
    )


def test_what_the_references_say_of_the_book_is_so():
    trained = {name: experiment.recipe for name, experiment in runs.EXPERIMENTS.items()}
    cycle = {name.split("-")[0] for name, recipe in trained.items() if recipe.schedule == "onecycle"}
    words = (
        "of chapter 1, of the stems in chapter 5, of chapter 6's trainings on all images, and of chapter 8"
    )
    claim("references", words, cycle == {"lenet", "vgg", "stem", "speed", "epochs", "resnet", "pretrained"})
    xavier = {name for name, recipe in trained.items() if recipe.initialization == "xavier"}
    claim("references", "The Xavier initialization of the source recipe", "source-recipe" in xavier)
    claim("references", "most other networks of the book start from", len(xavier) < len(trained) / 2)
    claim("references", "What they teach is in it", {"07", "08", "09"} <= CHAPTERS.keys())


# ---------------------------------------------------------------------------------------------------
# Guide for instructors


def exercises(chapter: str) -> dict[str, int]:
    """Minutes of each exercise."""
    found = re.findall(
        r"\*\*Exercise ([\d.]+): [^*]+\*\* \((\d+) min", "\n".join(sources(chapter, "markdown"))
    )
    return {number: int(minutes) for number, minutes in found}


def test_the_course_uses_every_exercise_once_and_fits_its_sessions():
    rows = re.findall(
        r"^\| (\d)\. \[.*?\]\((\d\d)_.*?\) \| .*? \| (.*?) \| (.*?) \|$", read("book/instructors.md"), re.M
    )
    assert [(number, f"0{number}") for number, _, _, _ in rows] == [(n, c) for n, c, _, _ in rows]
    assert len(rows) == 6
    for _, chapter, in_class, at_home in rows:
        every = exercises(chapter)
        first = in_class.split(", ")
        rest = (
            [number for number in every if number not in first]
            if at_home == "the others"
            else at_home.split(", ")
        )
        assert sorted(first + rest) == sorted(every), chapter
        assert sum(every[number] for number in first) <= 45, chapter  # half of the session
    claim("instructors", "exercises 10.2 and 10.3. At home: 10.1 and 10.4.", len(exercises("10")) == 4)
    claim("instructors", "exercises 11.1 and 11.2. At home: 11.3 to 11.5.", len(exercises("11")) == 5)
    totals = [sum(exercises(chapter).values()) for chapter in CHAPTERS]
    claim("instructors", "all of a chapter take an hour or more", min(totals) >= 60)


def test_the_live_training_is_the_whole_network_and_has_a_seed_in_two_places():
    (cell,) = [source for source in sources("05") if "train.fit(small_net" in source]
    places = (
        cell.count("torch.manual_seed(0)") == 1 and len(re.findall(r"train\.fit\([^)]*seed=0\)", cell)) == 1
    )
    claim("instructors", "in `torch.manual_seed(…)`, and as `seed=…` in the call of `train.fit`", places)
    parameters = probes.count_parameters(models.d2l_resnet18())
    holds = "small_net = resnet18()" in cell and round(parameters / 1e6) == 11
    claim("instructors", "the full ResNet-18 live, with its 11 million parameters", holds)


def test_what_the_guide_says_of_blocks_is_so():
    with torch.device("meta"):
        nets = {depth: getattr(models, f"resnet{depth}")() for depth in (18, 34, 50)}
    found = [m for m in nets[18].modules() if isinstance(m, blocks.BasicBlock)]
    projected = sum(
        any(isinstance(c, torch.nn.Conv2d) for c in m.downsample.modules()) for m in found if m.downsample
    )
    claim("instructors", "In ResNet-18 that is in three of eight blocks.", (projected, len(found)) == (3, 8))
    wide = {depth: {side for side, channels in _maps(net) if channels == 256} for depth, net in nets.items()}
    holds = wide == {18: {14}, 34: {14}, 50: set()}
    claim("instructors", "the expensive one of that pair on maps of 14×14 only, in ResNet-18 and 34", holds)
    counted = [
        sum(m.weight.numel() for m in block.modules() if isinstance(m, torch.nn.Conv2d))
        for block in (blocks.BasicBlock(64, 64), blocks.Bottleneck(256, 256), blocks.BasicBlock(256, 256))
    ]
    claim("instructors", f"{counted[0]:,} and {counted[1]:,} weights")
    claim("instructors", f"defends {counted[2] / counted[1]:.2f}×, the other {counted[0] / counted[1]:.2f}×")
    target = torch.tensor([0.91] + 9 * [0.01])
    lowest = -(target * target.log()).sum().item()
    claim("instructors", "no loss gets below 0.5", 0.5 <= lowest < 0.501)


def _maps(net: torch.nn.Module) -> set[tuple[int, int]]:
    """Side and channels of what the basic blocks put out, for images of 224×224."""
    found = set()
    hooks = [
        m.register_forward_hook(lambda m, args, out: found.add((out.shape[-1], out.shape[1])))
        for m in net.modules()
        if isinstance(m, blocks.BasicBlock)
    ]
    net.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    for hook in hooks:
        hook.remove()
    return found


# ---------------------------------------------------------------------------------------------------
# README, CONTRIBUTING, and the machines that others lend

COMMANDS = [
    "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/jupyter-book build .",
    "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/python -m pytest code",
]


def test_the_commands_of_the_readme():
    text = read("README.md")
    for command in COMMANDS:
        assert text.count(f"```bash\n{command}\n```") == 1
        windows = (
            command.replace("python3 -m", "py -m")
            .replace(" &&", ";")
            .replace(".venv/bin/", ".venv\\Scripts\\")
        )
        assert windows in text.splitlines(), windows
    launched = [line for line in text.splitlines() if "torchrun --standalone" in line]
    # Without an address torchrun asks for the host's name, and waits where nobody knows it.
    assert launched and all("--local-addr 127.0.0.1" in line for line in launched)


def test_the_pythons_of_the_readme():
    claim(README, "Python 3.11 to 3.14")
    claim("intro", "Python 3.11, 3.12, 3.13 or 3.14")
    project = tomllib.loads(read("code/pyproject.toml"))["project"]
    assert project["requires-python"] == ">=3.11"
    # Packages with compiled code say for which versions they are built: numpy is the narrowest of ours.
    listed = importlib.metadata.metadata("numpy").get_all("Classifier")
    built = sorted(int(found[1]) for line in listed if (found := re.search(r"Python :: 3\.(\d+)$", line)))
    assert built == [11, 12, 13, 14]


def test_the_readmes_setting_for_colab_works(monkeypatch):
    monkeypatch.setattr(runs, "_chosen", dict(runs._chosen))
    (code,) = re.findall(r"`(runs\.use\(.*?\))`", read("README.md"))
    exec(code, {"runs": runs})
    assert runs.mode() == "full" and runs.own_folder() == Path("/content/drive/MyDrive/my-runs")


def test_what_contributing_names_is_there():
    table = re.search(r"## Where things live\n(.*?)\n##", read("CONTRIBUTING.md"), re.S)[1]
    package = ROOT / "code" / "resnetbook"
    for path in re.findall(r"`([\w/.]+)`", table):
        if path not in ("EXPERIMENTS", "book/NN_name.ipynb"):
            assert (ROOT / path).exists() or (package / path).exists(), path
    assert "compare.py" in table


def imported(source: str) -> set[str]:
    """Packages that a cell imports; lines that are no Python are left out."""
    tree = ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M))
    found = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in found}


def binder(text: str) -> tuple[dict[str, Requirement], set[str]]:
    """Binder's requirements by name, with those of the book's package, and the options beside them."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    options = {line for line in lines if line.startswith("-")}
    listed = [Requirement(line) for line in lines if line not in options and line != "./code"]
    if "./code" in lines:
        declared = tomllib.loads(read("code/pyproject.toml"))["project"]["dependencies"]
        own = [Requirement(line) for line in declared]
        listed = own + listed  # a pin goes before a lower bound
    return {canonicalize_name(requirement.name): requirement for requirement in listed}, options


def lacking(text: str) -> set[str]:
    """Modules that notebooks import, and that an environment made from these requirements would not have."""
    installed = set(binder(text)[0]) | ({"resnetbook"} if "./code" in text.splitlines() else set())
    waiting = list(installed - {"resnetbook"})
    while waiting:
        for line in importlib.metadata.requires(waiting.pop()) or []:
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            if name not in installed and (
                not requirement.marker or requirement.marker.evaluate({"extra": ""})
            ):
                installed.add(name)
                waiting.append(name)
    # d2l asks for more than the notebooks name.
    d2l = Path(importlib.metadata.distribution("d2l").locate_file("d2l/torch.py"))
    wanted = imported(d2l.read_text(encoding="utf-8")).union(
        *(imported(source) for chapter in CHAPTERS for source in sources(chapter))
    )
    distributions = importlib.metadata.packages_distributions()
    return {
        module
        for module in wanted - set(sys.stdlib_module_names)
        if not any(canonicalize_name(name) in installed for name in distributions.get(module, []))
    }


def test_binder_has_what_the_notebooks_import():
    text = read(".binder/requirements.txt")
    assert lacking(text) == set()
    without = "\n".join(line for line in text.splitlines() if not line.startswith(("d2l", "lightning")))
    assert {"d2l", "lightning", "pandas"} <= lacking(without)
    assert "resnetbook" in lacking(text.replace("./code", ""))


def test_binder_has_no_gpu_and_brings_nothing_for_one():
    wanted, options = binder(read(".binder/requirements.txt"))
    assert str(wanted["torch"].specifier).endswith("+cpu")
    assert options == {"--extra-index-url https://download.pytorch.org/whl/cpu"}
    # Pinned as everywhere else; what is named there with a local version is the same release.
    pins = {
        canonicalize_name(r.name): r
        for r in map(Requirement, re.findall(r"^\w\S*==\S+", read("requirements.txt"), re.M))
    }
    named = re.findall(r"^(\w[\w-]*)==(\S+)$", read(".binder/requirements.txt"), re.M)
    assert {name for name, _ in named} >= {"torch", "torchvision", "d2l", "lightning", "matplotlib"}
    for name, version in named:
        assert f"=={version.removesuffix('+cpu')}" == str(pins[canonicalize_name(name)].specifier), name
    assert read(".binder/runtime.txt").strip() == "python-3.12"
    # The container for editors has no GPU, either.
    made = json.loads(read(".devcontainer/devcontainer.json"))["postCreateCommand"]
    for name in ("torch", "torchvision"):
        assert f"{name}{wanted[name].specifier}" in made.split(), name
    assert options <= {f"--extra-index-url {found}" for found in re.findall(r"--extra-index-url (\S+)", made)}
    assert made.endswith("-r requirements.txt")
