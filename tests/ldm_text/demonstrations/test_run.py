import json

import pytest

from ldm_text.demonstrations.programs import read_problems
from ldm_text.demonstrations.run import prompt_programs, run_programs

HUMAN_EVAL = {
    "task_id": "HumanEval/7",
    "source": "from typing import List\n\n\ndef one() -> int:\n    return 1\n\n\n"
    'def add(a: int, b: int = 2) -> List[int]:\n    """ Add two\n    numbers.\n'
    '    >>> add(1)\n    [3]\n    """\n',
    "target": "    return [a + b]\n",
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(one()) == [3]\n",
}
MBPP = {
    "task_id": 8,
    "source": "Write a function to double a list.",
    "target": "class Box:\n    size = 2\ndef double(x):\n    return x * 2",
    "test_list": ["assert set(double([1])) == {1}", "assert len(double([box.size])) == 2"],
    "test_setup_code": "box = Box()",
}


@pytest.fixture
def write(tmp_path):
    def run(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return run


@pytest.fixture
def run(main, write, tmp_path, make_sandbox):
    """Run the command on texts; return its report and what it printed."""
    make_sandbox()  # skips where there is none

    def call(row, texts, *options):
        data = write("data.jsonl", [row])
        rows = [{"task_id": row["task_id"], "text": text} for text in texts]
        files = ["--data", data, "--texts", write("texts.jsonl", rows)]
        files += ["--output", tmp_path / "report.json", "--allow_root"]
        code, printed, error = main("run_programs", *files, *options)
        assert (code, error) == (0, "")
        return json.loads((tmp_path / "report.json").read_text()), printed

    return call


def statuses(report):
    return [outcome["status"] for outcome in report["problems"][0]["outcomes"]]


def test_completions_go_on_from_the_source(run):
    texts = [HUMAN_EVAL["target"], "    return [a]\n", "    return ["]
    report, printed = run(HUMAN_EVAL, texts, "--texts_are", "completions", "--num_workers", 2)
    assert statuses(report) == ["passed", "failed", "error"]
    assert report["pass_at"]["1"]["rate"] == pytest.approx(1 / 3)
    assert report["programs"] == {"passed": 1, "failed": 1, "timeout": 0, "memory": 0, "error": 1}
    assert printed.startswith("pass@1: 33.3% (95 %: ")


def test_functions_stand_behind_the_preamble(run):
    """Imports and functions of the prompt are there, the docstring's function is the text's."""
    texts = [
        "def add(a: int, b: int = 2) -> List[int]:\n    return [a + b]",
        "def sum(a): return a",
    ]
    report, _ = run(HUMAN_EVAL, texts, "--pass_at", "[1,2]")
    assert statuses(report) == ["passed", "error"]
    assert {k: figures["rate"] for k, figures in report["pass_at"].items()} == {"1": 0.5, "2": 1.0}


def test_the_setup_of_a_test_may_need_the_solution(run):
    """The setup stood before the text, and problem 367 of MBPP failed with its own solution."""
    report, _ = run(MBPP, [MBPP["target"], "def double(x): return x"])
    assert statuses(report) == ["passed", "error"]


def test_limits_are_those_of_the_command(run):
    report, _ = run(MBPP, ["while True: pass"], "--limits.timeout_s", 1)
    assert statuses(report) == ["timeout"]
    assert report["sandbox"]["timeout_s"] == 1
    assert report["sandbox"]["isolated"] is True


def test_a_problem_without_text_is_not_solved(write, tmp_path, make_sandbox):
    make_sandbox()
    data = write("data.jsonl", [MBPP, MBPP | {"task_id": 9}])
    texts = write("texts.jsonl", [{"task_id": 8, "text": MBPP["target"]}])
    run_programs(str(data), texts, tmp_path / "report.json", allow_root=True)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pass_at"]["1"]["rate"] == 0.5
    assert report["num_missing"] == 1
    assert report["problems"][1] == {"task_id": 9, "outcomes": []}


def test_prompts_hold_description_and_header(write, tmp_path):
    prompt_programs(str(write("data.jsonl", [HUMAN_EVAL, MBPP])), tmp_path / "prompts.jsonl")
    lines = (tmp_path / "prompts.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "task_id": "HumanEval/7",
            "source": "Add two numbers.",
            "prefix": "def add(a: int, b: int=2) -> List[int]:\n",
        },
        {"task_id": 8, "source": MBPP["source"], "prefix": "def double("},
    ]


def test_what_stands_before_a_docstring_belongs_to_the_header(write):
    """Problem 115 of HumanEval had no description, and its function did not know `math`."""
    source = 'def add(a):\n    import math\n    """\n    Round\n    up.\n\n    More.\n    """\n'
    (problem,) = read_problems(write("data.jsonl", [HUMAN_EVAL | {"source": source}]))
    assert problem.description == "Round up."
    assert problem.header == "def add(a):\n    import math\n"


def test_the_tested_function_is_found_among_those_of_python(write):
    tests = ["assert sorted(f(list(x))) == 1", "assert sum(10, 15) == 6"]
    rows = [MBPP | {"task_id": i, "test_list": [test]} for i, test in enumerate(tests)]
    problems = read_problems(write("data.jsonl", rows))
    assert [problem.header for problem in problems] == ["def f(", "def sum("]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_id": None}, "`task_id` must be a string or a number, got None"),
        ({"entry_point": "sub"}, "`source` has no function 'sub'"),
        ({"source": "def add("}, "line 1: .*never closed"),
        ({"source": "def add(): pass"}, "'add' by no docstring"),
        ({"test_list": []}, "`test_list` must be a list of assertions"),
        ({"test_list": ["assert x"], "test_setup_code": ""}, "calls no function"),
    ],
)
def test_problems_of_another_kind_are_refused(write, change, message):
    with pytest.raises(ValueError, match=message):
        read_problems(write("data.jsonl", [HUMAN_EVAL | change]))


def test_texts_that_fit_no_problem_are_refused(write, tmp_path):
    data, output = str(write("data.jsonl", [MBPP])), tmp_path / "report.json"
    other = write("other.jsonl", [{"task_id": "x", "text": "y"}])
    with pytest.raises(ValueError, match="has the `task_id` of a problem"):
        run_programs(data, other, output)
    one = write("one.jsonl", [{"task_id": 8, "text": "y"}])
    with pytest.raises(ValueError, match=r"`--pass_at` must hold numbers from 1 to .* \(1\)"):
        run_programs(data, one, output, pass_at=(1, 2))
    with pytest.raises(ValueError, match="`--num_workers` must be at least 1"):
        run_programs(data, one, output, num_workers=0)


def test_nothing_goes_on_from_a_sentence(write, tmp_path):
    """The sentence of MBPP stood before the text, and no program was one."""
    data, output = str(write("data.jsonl", [MBPP])), tmp_path / "report.json"
    texts = write("texts.jsonl", [{"task_id": 8, "text": MBPP["target"]}])
    with pytest.raises(ValueError, match="`--texts_are completions`: problem 8 has no beginning"):
        run_programs(data, texts, output, texts_are="completions")
    assert not output.exists()
