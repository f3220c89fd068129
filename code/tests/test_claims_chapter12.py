"""What chapter 12 says is what its cells print, what its patients do, or what can be computed again."""

import re
import statistics

import nbformat
import pytest
import torch
from conftest import claim, page_text
from scipy.stats import t
from torch.nn import functional as F

import notebooks
from resnetbook import checks, models, probes, runs, tables

(PATH,) = notebooks.paths(["12"])
CELLS = {cell.id: cell for cell in nbformat.read(PATH, as_version=4).cells}

pytestmark = pytest.mark.usefixtures("one_thread")


def printed(cell_id: str) -> str:
    """The committed text of a code cell, with runs of spaces squeezed."""
    text = "\n".join(
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for output in CELLS[cell_id].outputs
    )
    return re.sub(" +", " ", text)


@pytest.fixture(scope="module")
def page() -> dict:
    """What the page defines, without its trainings and its clock."""
    scope: dict = {"display": print}
    for name in ("imports", "healthy-code", "shape-patients", "patient4", "count-patients"):
        exec(CELLS[name].source, scope)
    for name in ("gradient-patients", "statistic-patients", "twin-patients"):
        exec(CELLS[name].source, scope)
    source = CELLS["timing-patients"].source
    exec(source[: source.index("def milliseconds")], scope)
    return scope


def test_there_are_22_patients_each_with_a_diagnosis():
    text = page_text("12")
    claim("12", "Twenty-two patients come in")
    diagnosed = {int(number) for number in re.findall(r"\*\*Patient (\d+)\*\*", text)}
    assert diagnosed | {4} == set(range(1, 23))
    claim("intro", "22 networks with a mistake each")


# What the audit must find in each patient whose network is ill.
FOUND = {
    **{1: "pool-stride", 2: "no-stride", 3: "odd-sizes", 4: "does-not-run", 5: "depth", 6: "shared"},
    **{7: "not-owned", 8: "neighbours", 9: "bias", 10: "backward", 11: "cut", 12: "plain", 14: "momentum"},
    **{15: "chance", 16: "bare-projection", 17: "relu-before-plus", 18: "late-shortcut"},
    **{19: "no-last-relu", 20: "softmax", 21: "prints"},
}


@pytest.mark.parametrize("number", list(FOUND))
def test_the_audit_finds_every_patient(number, page):
    report = checks.audit(page["make"](page[f"Patient{number}"]), depth=34)
    assert report.findings[0].key == FOUND[number], str(report)
    row = f"{number} {report.findings[0].kind} {report.findings[0].what}"
    assert row in " ".join(printed("audit-patients").split())


def test_only_the_two_that_are_called_wrongly_pass(page):
    claim(
        "12",
        "Patients 13 and 22 are missing: their networks are healthy",
        checks.audit(page["make"](page["Patient13"])).ok,
    )
    assert set(range(1, 23)) - set(FOUND) == {13, 22}
    assert checks.audit(page["make"](page["Net"]), depth=34).findings == []


def test_every_sound_network_passes_on_the_page():
    rows = re.findall(r"^(.+) (\d) (\d) (\d) (passed|not run)$", printed("audit-sound"), re.M)
    assert len(rows) == 6 and all(wrong == "0" for _, wrong, *_ in rows)
    doubtful = {name: number for name, _, number, *_ in rows if number != "0"}
    claim("12", "d2l.ai's two doubtful points", doubtful == {"d2l.ai's ResNet-18": "2"})


def test_work_of_the_patients(page):
    found = dict(re.findall(r"^(\w+) 335,330 \(4, 10\) ([\d.]+)$", printed("complaints"), re.M))
    assert found["Net"] == found["Patient3"] == "1.00"
    claim("12", "Which of them costs more than ten times the work?", float(found["Patient2"]) > 10)
    claim("12", "All that follows works on four times the positions.", 3 < float(found["Patient1"]) <= 4)
    sides = {
        name: probes.shapes(page["make"](page[name]), (1, 64, 64))["layer4"][-1]
        for name in ("Net", "Patient2")
    }
    claim("12", "the last one does 64 times its work", (sides["Patient2"] / sides["Net"]) ** 2 == 64)
    claim(
        "12", "At 64 both give 8, at 75 they meet as 9 and 10.", -(-75 // 8) == 10 and -(-75 // 4) // 2 == 9
    )


def test_counts_of_the_patients():
    rows = {
        name: [int(value.replace(",", "")) for value in values.split()]
        for name, values in re.findall(r"^(Net|Patient\d) ([\d, ]+)$", printed("count-test-code"), re.M)
    }
    healthy = rows["Net"]
    assert healthy[:3] == [36, 36, 36]
    claim("12", "**Patient 5** calls eight convolutions too many", rows["Patient5"][0] == healthy[0] + 8)
    fewer = [name for name, row in rows.items() if row[3] < healthy[3]]
    claim("12", "Three of them have *fewer* parameters than they should", len(fewer) == 3)
    claim("12", "**Patient 7** calls all of them and owns half.", rows["Patient7"][:2] == healthy[:2])
    assert rows["Patient7"][2] <= healthy[2] / 2
    assert rows["Patient6"][0] == healthy[0] and rows["Patient6"][1] < healthy[1]


def test_patient_7_is_the_healthy_network_in_a_forward_pass(page):
    images = page["images"]
    torch.manual_seed(0)
    with torch.no_grad():
        given, right = (page["make"](page[name])(images) for name in ("Patient7", "Net"))
    claim("12", "In a forward pass it is the healthy network.", torch.equal(given, right))


def test_what_the_gradient_tells():
    text = printed("gradient-test-code")
    assert "Net: 0 idle" in text and "Patient10: one of the variables needed" in text
    idle = dict(re.findall(r"(Patient1[12]): (\d+) idle", text))
    claim("12", "So two mistakes look alike to this test.", idle["Patient11"] == idle["Patient12"] == "9")
    twins = dict(re.findall(r"^(Net|Patient\d+) (yes|no)$", printed("twin-test-code"), re.M))
    claim(
        "12",
        "11 equals the healthy network, 12 does not",
        (twins["Patient11"], twins["Patient12"]) == ("yes", "no"),
    )
    assert [name for name, equal in twins.items() if equal == "yes"] == ["Net", "Patient11"]


def test_what_the_statistics_tell():
    rows = dict(re.findall(r"^(Net|Patient1[3-6]) (.*)$", printed("statistic-test-code"), re.M))
    assert rows == {
        "Net": "same same 10%",
        "Patient13": "same other 10%",
        "Patient14": "same same 99%",
        "Patient15": "other other 10%",
        "Patient16": "same same 10%",
    }
    claim("12", "**Patient 16** passes.")
    assert "Net: the two sides differ by more than 0.1: False" in printed("sides")
    assert "Patient16: the two sides differ by more than 0.1: True" in printed("sides")


def test_the_floor_of_two_softmaxes():
    floor = F.cross_entropy(torch.eye(10), torch.arange(10)).item()
    claim("12", "push patient 20 below 1.46", round(floor, 2) == 1.46)
    claim("12", "A softmax there makes 1.46 the smallest possible loss.")


def test_parameters_of_the_variants():
    with torch.device("meta"):
        counts = {n: probes.count_parameters(models.resnet18(n)) for n in (10, 1000)}
        twenty = probes.count_parameters(models.cifar_resnet(20))
    millions = [round(counts[n] / 1e6, 1) for n in (1000, 10)]
    claim("12", "*11.7 or 11.2 million?*", millions == [11.7, 11.2])
    claim("12", "half a million parameters more", round((counts[1000] - counts[10]) / 1e6, 1) == 0.5)
    claim("12", "*0.27 million?*", round(twenty / 1e6, 2) == 0.27)
    assert f"option A {twenty:,}" in printed("variants")


def test_the_intervals_for_one_more_run():
    names = re.findall(r'^    "([\w-]+)": "(.*)",$', CELLS["interval"].source, re.M)
    assert len(names) == 4
    widths = {}
    for name, label in names:
        values = runs.last(runs.load_seeds(name), "test_accuracy")
        n, mean = len(values), statistics.fmean(values)
        reach = float(t.ppf(0.975, n - 1)) * statistics.stdev(values) * (1 + 1 / n) ** 0.5
        widths[name] = (reach, n)
        row = f"{label} {tables.summary(values, 3)} {mean - reach:.3f} to {mean + reach:.3f}"
        assert row in " ".join(printed("interval").split()), row
    fewest = min(n for _, n in widths.values())
    claim("12", "It is wide where few seeds were run", max(widths.values())[1] == fewest)


def test_times_of_the_exercises():
    minutes = [int(m) for m in re.findall(r"\*\*Exercise 12\.\d: [^*]+\*\* \((\d+) min", page_text("12"))]
    claim("12", f"Exercises: another {sum(minutes)} minutes.", len(minutes) == 5)
    claim("instructors", "exercises 12.2 and 12.3. At home: 12.1, 12.4 and 12.5")
