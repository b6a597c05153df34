"""Law: a prompt suite is a job: prompts × providers × combinations × repetitions, each as a reader would write it."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.errors import ConfigError
from ratelimit.job import BadLine, Line, read_job
from ratelimit.suite import is_suite, rendering, template

SUITE = """\
# what promptfoo is told to ask
prompts:
  - 'Answer {{ customer.name }}: {{question}}'
  - file://prompts/*.txt
  - id: file://prompts/chat.json
    label: chat
providers:
  - openai:gpt-4.1
  - id: openai:responses:gpt-5.5
    label: thinker
    config: &common
      max_output_tokens: 2000
      reasoning_effort: low
  - id: openai:o3
    config:
      <<: *common
      temperature: 0
      max_completion_tokens: "500"
defaultTest:
  vars: {customer: {name: Ada}}
tests:
  - description: lost password
    vars: {question: "How?", order: 0012}
    assert: [{type: llm-rubric, value: is polite}]
  - vars: {question: file://questions/*.md, order: true}
"""
FILES = {
    "prompts/a.txt": "Order {{order}}\n---\n\n{{question}}\nNow.\n",
    "prompts/chat.json": '[{"role": "system", "content": "Be kind"}, {"role": "user", "content": "{{question}}"}]',
    "questions/1.md": "Where is\nmy order?\n\n",
    "questions/2.md": 'A "quote"',
}


def write(folder: Path, files: dict[str, str], suite: str = SUITE, name: str = "promptfooconfig.yaml") -> Path:
    """Write a suite and its files."""
    for where, text in {**files, name: suite}.items():
        path = folder / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    return folder / name


def bodies(path: Path) -> dict[str, Any]:
    """What each line asks, by its custom_id; for a bad line the reason."""
    found: dict[str, Any] = {}
    for line in read_job(path):
        assert line.custom_id is not None
        assert line.custom_id not in found
        found[line.custom_id] = line.body if isinstance(line, Line) else line.reason
    return found


def asked(suite: str, folder: Path, files: dict[str, str] | None = None) -> list[Any]:
    """The texts that a suite asks, each as a text or as messages; for a bad line the reason."""
    found = list(bodies(write(folder, files or {}, suite)).values())
    return [one if isinstance(one, str) else one.get("input", one.get("messages")) for one in found]


def test_a_suite_is_the_job_that_its_reader_would_write(tmp_path: Path) -> None:
    """Prompts, providers, tests, files, anchors and numbers become the bodies that they describe, one line each."""
    path = write(tmp_path, FILES)
    found = bodies(path)
    prompts = ("prompt-1", "prompts/a.txt#1", "prompts/a.txt#2", "chat")
    tests = ("lost password", "2.1", "2.2")
    names = [
        f"{prompt}/{model}/{test}" for test in tests for model in ("gpt-4.1", "thinker", "o3") for prompt in prompts
    ]
    assert list(found) == names
    assert found["prompt-1/gpt-4.1/lost password"] == {
        "model": "gpt-4.1",
        "messages": [{"role": "user", "content": "Answer Ada: How?"}],
    }
    assert found["prompts/a.txt#1/thinker/lost password"] == {
        "model": "gpt-5.5",
        "input": "Order 0012",
        "max_output_tokens": 2000,
        "reasoning": {"effort": "low"},
    }
    assert found["prompts/a.txt#2/o3/2.1"] == {
        "model": "o3",
        "messages": [{"role": "user", "content": "Where is\nmy order?\nNow."}],
        "temperature": 0,
        "max_completion_tokens": 500,
        "reasoning_effort": "low",
    }
    assert found["chat/thinker/2.2"]["input"][1]["content"] == 'A "quote"'
    assert found["prompts/a.txt#1/gpt-4.1/2.1"]["messages"][0]["content"] == "Order true"
    assert found == bodies(path)


texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="{}\x85\u2028\u2029")
    | st.sampled_from("\n\"'\\:#- "),
    max_size=12,
)


@settings(max_examples=60)
@given(
    prompts=st.lists(st.lists(st.tuples(texts, st.integers(0, 2)), max_size=4), min_size=1, max_size=3),
    models=st.lists(st.sampled_from(["gpt-4.1", "o3", "gpt-5.5"]), min_size=1, max_size=3),
    tests=st.lists(st.tuples(*[texts | st.lists(texts, min_size=1, max_size=3)] * 3), min_size=1, max_size=3),
    repeat=st.integers(1, 3),
    as_json=st.booleans(),
)
def test_every_combination_is_asked_once_with_its_own_words(
    prompts: list[list[tuple[str, int]]],
    models: list[str],
    tests: list[tuple[str | list[str], ...]],
    repeat: int,
    as_json: bool,
) -> None:
    """As many lines as prompts × providers × combinations × repetitions, each with the text filled in by hand."""
    document = {
        "prompts": ["P " + "".join(f"{text}{{{{ v{place} }}}}" for text, place in pieces) for pieces in prompts],
        "providers": [f"openai:responses:{model}" for model in models],
        "tests": [{"vars": {f"v{place}": value for place, value in enumerate(test)}} for test in tests],
        "evaluateOptions": {"repeat": repeat},
    }
    suite = json.dumps(document, indent=1) if as_json else yaml.safe_dump(document)
    expected = []
    for test in tests:
        for values in itertools.product(*[value if isinstance(value, list) else [value] for value in test]):
            written = [value[:-1] if value.endswith("\n") else value for value in values]
            for pieces in prompts:
                text = "P "
                for before, place in pieces:
                    text += before + written[place]
                expected += [(model, text) for model in models] * repeat
    with tempfile.TemporaryDirectory() as folder:
        found = bodies(write(Path(folder), {}, suite))
    assert len(found) == len(expected)
    assert sorted((body["model"], body["input"]) for body in found.values()) == sorted(expected)


HEAD = "providers: openai:gpt-4.1\n"
ONE = "prompts: ['{{ x }}']\n" + HEAD


@pytest.mark.parametrize(
    ("suite", "files", "place", "message"),
    [
        ("prompts: [hi]\n", {}, ":1: ", "missing key 'providers'"),
        ("prompts:\n" + HEAD, {}, ":1: prompts: ", "expected a text, found nothing"),
        ("prompts: []\n" + HEAD, {}, ":1: prompts: ", "there is no prompt in it"),
        ("prompts: {a.txt: one}\n" + HEAD, {}, ":1: prompts: ", "expected a list"),
        ("prompts:\n  - lable: x\n    raw: hi\n" + HEAD, {}, ":2: prompts[0].lable: ", "did you mean 'label'?"),
        (HEAD + "prompts: [file://a.py]\n", {}, ":2: prompts[0]: ", "'a.py' is code, and nothing is run here"),
        (HEAD + "prompts: [a.js:make]\n", {}, ":2: prompts[0]: ", "'a.js:make' is code"),
        (HEAD + "prompts: ['exec:./make']\n", {}, ":2: prompts[0]: ", "would have to be run, and nothing is"),
        (HEAD + "prompts: ['langfuse://a:1']\n", {}, ":2: prompts[0]: ", "is not on this machine"),
        (HEAD + "prompts: [file://none.txt]\n", {}, ":2: prompts[0]: ", "none.txt: cannot be read: No such file"),
        (HEAD + "prompts: [file://p/*.txt]\n", {}, ":2: prompts[0]: ", "no file matches 'p/*.txt'"),
        (HEAD + "prompts: [file://a.csv]\n", {"a.csv": "x"}, ":2: prompts[0]: ", ".txt, .md, .j2, .json, .yaml"),
        (HEAD + "prompts: [file://a.txt]\n", {"a.txt": "---\n"}, ":2: prompts[0]: ", "there is no prompt in it"),
        (HEAD + "prompts: [file://a.json]\n", {"a.json": '{"a": 1}'}, "a.json: ", "expected a list of messages"),
        (HEAD + "prompts: [file://a.json]\n", {"a.json": "[\n{]"}, "a.json:2: ", "not JSON"),
        (HEAD + "prompts: [a.md]\n", {"a.md": "x\n{% if y %}z"}, "a.md:2: ", "'{% if y %}' is not understood"),
        (HEAD + "prompts: [a.txt]\n", {"a.txt": "x\n---\n\ny\n{{ z | upper }}"}, "a.txt:5: ", "'{{ z | upper }}'"),
        (HEAD + "prompts: ['{{ a']\n", {}, ":2: prompts[0]: ", "'{{ a' is not closed by '}}'"),
        (HEAD + "prompts: ['{# a #}']\n", {}, ":2: prompts[0]: ", "'{# a #}' is not understood"),
        (HEAD + "prompts: ['{{ env.KEY }}']\n", {}, ":2: prompts[0]: ", "the environment is not read"),
        ("prompts: [hi]\nproviders: ['openai:chat:']\n", {}, ":2: providers[0]: ", "names no model"),
        ("prompts: [hi]\nproviders: [https://x.test/v1]\n", {}, ":2: providers[0]: ", "is a server of its own"),
        ("prompts: [hi]\nproviders: ['exec:./ask']\n", {}, ":2: providers[0]: ", "would have to be run"),
        ("prompts: [hi]\nproviders: [file://ask.py]\n", {}, ":2: providers[0]: ", "is code, and nothing is run here"),
        ("prompts: [hi]\nproviders: ['openai:{{env.M}}']\n", {}, ":2: providers[0]: ", "is a template"),
        ("prompts: [hi]\nproviders:\n - id: openai:o3\n   config: {max_token: 5}\n", {},
         ":4: providers[0].config.max_token: ", "unknown field 'max_token'; did you mean 'max_tokens'?"),
        ("prompts: [hi]\nproviders:\n - id: openai:o3\n   config: {temperature: warm}\n", {},
         ":4: providers[0].config.temperature: ", "expected a number, found 'warm'"),
        ("prompts: [hi]\nproviders:\n - id: openai:o3\n   config: {mcp: {enabled: true}}\n", {},
         ":4: providers[0].config.mcp: ", "write them as tools"),
        ("prompts: [hi]\nproviders:\n - id: openai:o3\n   prompts: [hello]\n", {},
         ":4: providers[0].prompts[0]: ", "no prompt has the label 'hello'"),
        (ONE + "test: [{vars: {x: 1}}]\n", {}, ":3: test: ", "unknown key 'test'; did you mean 'tests'?"),
        (ONE + "scenarios: []\n", {}, ":3: scenarios: ", "write them as tests"),
        (ONE + "extensions: [file://a.py:f]\n", {}, ":3: extensions: ", "nothing is run"),
        (ONE + "commandLineOptions: {filterFirstN: 3}\n", {}, ":3: commandLineOptions.filterFirstN: ", "leave it out"),
        (ONE + "tests: file://t.py\n", {}, ":3: tests: ", "is code, and nothing is run here"),
        (ONE + "tests: https://docs.google.com/x\n", {}, ":3: tests: ", "is not on this machine"),
        (ONE + "tests: file://t.xlsx\n", {"t.xlsx": "x"}, ":3: tests: ", ".csv, .json, .jsonl, .yaml are"),
        (ONE + "tests: [{vars: {x: 1}, provider: openai:o3}]\n", {}, ":3: tests[0].provider: ", "is not understood"),
        (ONE + "tests: [{vars: {x: 1}, options: {transformVars: y}}]\n", {},
         ":3: tests[0].options.transformVars: ", "is not understood"),
        (ONE + "tests: [{vars: {x: file://a.png}}]\n", {"a.png": "x"}, ":3: tests[0].vars.x: ", "or its data URL"),
        (ONE + "tests: [{vars: {x: file://a.py}}]\n", {}, ":3: tests[0].vars.x: ", "is code"),
        (ONE + "tests: [{vars: {x: []}}]\n", {}, ":3: tests[0].vars.x: ", "an empty list"),
        (ONE + "tests: file://t.csv\n", {"t.csv": "x,y\n1\n"}, "t.csv:2: ", "1 columns, where the header has 2"),
        (ONE + "tests: file://t.csv\n", {"t.csv": 'x\n"1\n'}, "t.csv:2: ", "not CSV"),
        (ONE + "tests: file://t.jsonl\n", {"t.jsonl": '{"vars": {"x": 1}}\n{"vars": \n'}, "t.jsonl:2: ", "not JSON"),
        (ONE + "a: &a [*a]\n", {}, ":3: a[0]: ", "no value that ends before this line has the anchor &a"),
        (ONE + "a: !!python/name:os.system\n", {}, ":3: a: ", "tags"),
        (ONE + "a: &a {b: 1}\nb: {<<: [1]}\n", {}, ":4: b.<<: ", "takes a mapping"),
        ("prompts: [a]\nproviders: {", {}, ":", "not YAML"),
        ('{"providers": "openai:o3",\n"prompts": [}', {}, ":2: ", "not JSON"),
        ('{\n"prompts": "a b",\n"prompts": "c"}', {}, ": ", "duplicate key 'prompts'"),
        ('{\n"prompts": "a b",\n"providers": NaN}', {}, ": ", "not JSON: NaN"),
        ('{\n"prompts": ' + "[" * 40 + "]" * 40 + "}", {}, ": prompts[0]", "nested more than 32 deep"),
        ('{\n"prompts": ' + "[" * 9_999 + "]" * 9_999 + "}", {}, ": ", "nested more than 32 deep"),
        (HEAD + "targets: openai:o3\nprompts: [a b]\n", {}, ":1: ", "'targets' is another name of 'providers'"),
        (HEAD + "prompts: [{label: x}]\n", {}, ":2: prompts[0]: ", "it has no text: expected raw, file or id"),
        (HEAD + "prompts: ['- role: user']\n", {}, ":2: prompts[0]: ", "write them as JSON, or into a .yaml file"),
        (HEAD + "prompts: [file://p.md]\n", {"p.md/a.txt": "x"}, ":2: prompts[0]: ", "p.md: cannot be read: Is a"),
        (HEAD + "prompts: [file://a.json]\n", {"a.json": '[{"a": "file://b"}]'}, "a.json: [0].a: ", "is not read here"),
        ("prompts: [a b]\nproviders: []\n", {}, ":2: providers: ", "there is no provider in it"),
        ("prompts: [a b]\nproviders: [{label: x}]\n", {}, ":2: providers[0]: ", "missing key 'id'"),
        ("prompts: [a b]\nproviders: file://p.yaml\n", {"p.yaml": "- file://p.yaml\n"}, "p.yaml:1: [0]: ", "another"),
        ("prompts: [a b]\nproviders: file://p.txt\n", {"p.txt": "x"}, ":2: providers: ", ".yaml and .json are"),
        ("prompts: [a b]\nproviders: {'openai:o3': {config: {tools: file://t.json}}}\n", {"t.json": '"file://t.json"'},
         "t.json: ", "'file://t.json' is a file in a file, more than 3 deep"),
        (ONE + "tests: {vars: {x: 1}}\n", {}, ":3: tests: ", "expected a list of tests"),
        (ONE + "tests: [{path: file://t.py}]\n", {}, ":3: tests[0].path: ", "tests that a program makes"),
        (ONE + "tests: [{vars: file://v.txt}]\n", {"v.txt": "x"}, ":3: tests[0].vars: ", ".yaml and .json are"),
        (ONE + "tests: [{vars: {x: 1}, providers: [o3]}]\n", {}, ":3: tests[0].providers[0]: ", "no provider has"),
        (ONE + "tests: [{options: {prefix: '{% a %}'}}]\n", {}, ":3: tests[0].options.prefix: ", "'{% a %}' is not"),
        (ONE + "defaultTest: file://d.txt\n", {"d.txt": "x"}, ":3: defaultTest: ", ".yaml and .json are"),
        (ONE + "tests: file://t.csv\n", {"t.csv": ""}, "t.csv:1: ", "there is no header"),
        (ONE + "tests: file://t.csv\n", {"t.csv": "x,x\n1,2\n"}, "t.csv:1: ", "two columns are named 'x'"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_told_where_it_stands(
    tmp_path: Path, suite: str, files: dict[str, str], place: str, message: str
) -> None:
    """Code, other people's servers, nunjucks, typing errors: each is one message with file, line and key."""
    path = write(tmp_path, files, suite)
    assert is_suite(path)
    with pytest.raises(ConfigError) as caught:
        list(read_job(path))
    text = str(caught.value)
    where = f"{tmp_path / place}" if not place.startswith(":") else f"{path}{place}"
    assert text.startswith(where)
    assert message in text


def test_one_request_that_cannot_be_rendered_does_not_hide_the_others(tmp_path: Path) -> None:
    """A missing variable, a mapping where a text is needed and variables without end are bad lines that name them."""
    suite = (
        ONE + "tests:\n - vars: {x: 1}\n - vars: {y: 1}\n - vars: {x: {a: 1}}\n - vars: {x: '{{ y }}', y: '{{ x }}'}\n"
    )
    where = "prompt 'prompt-1', test"
    assert [one if isinstance(one, str) else one[0]["content"] for one in asked(suite, tmp_path)] == [
        "1",
        f"{where} '2': variable 'x' is missing",
        f"{where} '3': variable 'x' is a mapping: write {{{{ x | dump }}}} to have it as JSON",
        f"{where} '4': variable 'x' names variables in variables, more than {template.ROUNDS} deep",
    ]


def test_other_peoples_models_are_bad_lines_and_never_left_out(tmp_path: Path) -> None:
    """A provider that is not OpenAI's, or no endpoint that is understood, gives a bad line for each of its requests."""
    suite = "prompts: [a b, c d]\nproviders: [openai:o3, 'anthropic:messages:claude', openai:image:gpt-image-1]\n"
    found = [line.reason for line in read_job(write(tmp_path, {}, suite)) if isinstance(line, BadLine)]
    assert len(found) == 4
    assert found[0].startswith("provider 'anthropic:messages:claude' is not one of OpenAI's API")
    assert found[2].startswith("provider 'openai:image:gpt-image-1' is not understood: of OpenAI's openai:MODEL,")


def test_fields_go_where_their_endpoint_has_them(tmp_path: Path) -> None:
    """Each endpoint is asked in its own words, and what is another's, or a secret, is not sent."""
    suite = """\
prompts: [hello you]
providers:
  - {id: 'openai:responses:gpt-5.5', config: {apiKey: '{{env.KEY}}', max_tokens: 5, max_output_tokens: 7,
     verbosity: low, tools: file://tools.json, response_format: {type: json_schema, json_schema: {name: n, schema: file://s.yaml}}}}
  - {id: 'openai:chat:gpt-4.1', config: {max_tokens: '5', stop: ['1'], passthrough: {seed: 3, user: null}}}
  - {id: 'openai:o3', config: {max_tokens: 5}}
  - {id: 'openai:completion:gpt-3.5-turbo-instruct', config: {max_tokens: 5}}
  - {id: 'openai:embedding:text-embedding-3-small', config: {dimensions: 256}}
  - file://more.yaml
  - openai:o3-pro: {config: {service_tier: flex}}
"""
    files = {
        "tools.json": '[{"type": "web_search"}]',
        "s.yaml": "type: object\nadditionalProperties: false\nminProperties: 1\nenum: ['1']\n",
        "more.yaml": "- openai:chat:gpt-5.5\n",
    }
    found = list(read_job(write(tmp_path, files, suite)))
    schema = {"type": "object", "additionalProperties": False, "minProperties": 1, "enum": ["1"]}
    form = {"type": "json_schema", "name": "n", "strict": True, "schema": schema}
    user = [{"role": "user", "content": "hello you"}]
    assert [(line.endpoint, line.body) for line in found if isinstance(line, Line)] == [
        ("/v1/responses", {"model": "gpt-5.5", "input": "hello you", "tools": [{"type": "web_search"}],
                           "max_output_tokens": 7, "text": {"format": form, "verbosity": "low"}}),
        ("/v1/chat/completions", {"model": "gpt-4.1", "messages": user, "max_tokens": 5, "stop": ["1"], "seed": 3,
                                  "user": None}),
        ("/v1/chat/completions", {"model": "o3", "messages": user}),
        ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "hello you", "max_tokens": 5}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "hello you", "dimensions": 256}),
        ("/v1/chat/completions", {"model": "gpt-5.5", "messages": user}),
        ("/v1/responses", {"model": "o3-pro", "input": "hello you", "service_tier": "flex"}),
    ]  # fmt: skip


def test_tests_are_read_from_files_of_four_kinds(tmp_path: Path) -> None:
    """CSV, JSON, JSON Lines and YAML are read; special columns are no variables, and given answers need no request."""
    files = {
        "a.csv": '\ufeffx,__expected,__description,__prefix,__providerOutput\n"one, ""1""",=1,first,Pre ,\n2,,,,said\n',
        "b.json": '[{"vars": {"x": 3.10}, "description": "from json"}, {"vars": {"x": [1, 2]}}]',
        "c.jsonl": '{"vars": {"x": "four"}}\n\n',
        "d.yaml": "- vars: file://vars.yaml\n  options: {suffix: ' End'}\n",
        "vars.yaml": "x: [five, six]\n",
    }
    suite = ONE + "tests: [file://a.csv, file://b.json, file://c.jsonl, file://d.yaml]\n"
    found = bodies(write(tmp_path, files, suite))
    assert {name: body["messages"][0]["content"] for name, body in found.items()} == {
        "prompt-1/gpt-4.1/first": 'Pre one, "1"',
        "prompt-1/gpt-4.1/from json": "3.10",
        "prompt-1/gpt-4.1/4": "1,2",
        "prompt-1/gpt-4.1/5": "four",
        "prompt-1/gpt-4.1/6.1": "five End",
        "prompt-1/gpt-4.1/6.2": "six End",
    }


def test_programs_are_texts_where_a_text_is_asked_about(tmp_path: Path) -> None:
    """A variable may be the text of a program that promptfoo does not run either; a prompt may begin with a link."""
    files = {"main.go": "package main\n", "sub/a.sh": "ls\n"}
    suite = "x-tests: 1\nprompts: ['https://x.test says {{ x }}']\nproviders: openai:responses:o3\n"
    suite += "tests: [{vars: {x: [file://main.go, file://sub/*.sh]}}]\n"
    assert asked(suite, tmp_path, files) == ["https://x.test says package main", "https://x.test says ls"]


def test_json_in_prompts_is_filled_in_inside_its_texts(tmp_path: Path) -> None:
    """Quotes and line ends of a variable cannot break messages; `dump` writes any value as JSON."""
    files = {
        "p.json": '[{"role": "user", "content": {{ x | dump }}}]',
        "q.yaml": "- {role: user, content: 'Q {{x}}'}\n",
    }
    suite = """\
prompts:
  - file://p.json
  - file://q.yaml
  - '[{"role": "user", "content": "{{ x }}"}]'
  - 'As {{ y | dump }} {{ y.z.0 | json }}'
providers: openai:responses:o3
tests: [{vars: {x: "a \\"b\\"\\nc", y: {z: {0: [1, true, null, '2', é]}}}}]
"""
    assert asked(suite, tmp_path, files) == [
        [{"role": "user", "content": 'a "b"\nc'}],
        [{"role": "user", "content": 'Q a "b"\nc'}],
        [{"role": "user", "content": 'a "b"\nc'}],
        'As {"z":{"0":[1,true,null,"2","é"]}} [1,true,null,"2","é"]',
    ]


def test_what_chooses_prompts_and_providers_is_obeyed(tmp_path: Path) -> None:
    """Labels at a provider and at a test, and lists that are not to be expanded, leave out what they leave out."""
    suite = """\
prompts: [{raw: 'A {{x}}', label: 'short:a'}, {raw: 'B {{x}}', label: 'short:b'}, {raw: 'C {{x}}', label: long}]
providers: [{id: 'openai:o3', prompts: [short]}, {id: openai:o3, label: all}]
tests:
  - {vars: {x: [1, 2]}, prompts: [long]}
  - {vars: {x: ['1', '2']}, providers: ['openai:o3'], prompts: ['short:*'], options: {disableVarExpansion: true}}
"""
    assert {name: body["messages"][0]["content"] for name, body in bodies(write(tmp_path, {}, suite)).items()} == {
        "long/all/1": "C 1,2",
        "short:a/o3/2": "A 1,2",
        "short:b/o3/2": "B 1,2",
        "short:a/all/2": "A 1,2",
        "short:b/all/2": "B 1,2",
    }


def test_the_rest_of_the_frame_is_read(tmp_path: Path) -> None:
    """A defaultTest in a file, variables in files, `targets`, and the command line's `repeat`, which goes first."""
    files = {"d.yaml": "vars: {x: D, y: D}\n", "v.json": '{"y": "J", "z": "J"}', "w.yaml": "z: W\n"}
    suite = """\
prompts: 'A {{x}} {{y}} {{z}}'
targets: [openai:responses:o3, other:model]
defaultTest: file://d.yaml
tests: [{vars: [v.json, w.yaml]}, {vars: null, options: null, providers: ['openai:*']}]
evaluateOptions: {repeat: 3}
commandLineOptions: {repeat: 2, cache: false}
"""
    found = asked(suite, tmp_path, files)
    assert len(found) == 6
    assert found[::2][:2] == ["A D J W"] * 2
    assert found[4] == found[5] == "prompt 'prompt-1', test '2': variable 'z' is missing"


def test_names_are_unique_and_fit_on_a_line(tmp_path: Path) -> None:
    """Two tests of one description, slashes and control characters give different names without any of these."""
    suite = "prompts: [a b]\nproviders: [openai:o3, openai:o3]\ntests:\n" + ' - {description: "a/b\\e[31m\\n c"}\n' * 2
    names = list(bodies(write(tmp_path, {}, suite)))
    assert names == [f"prompt-1/{model}/a_b [31m c{more}" for more in ("", "-2") for model in ("o3", "o3-2")]


@pytest.mark.parametrize(
    ("text", "suite"),
    [
        ("---\n# x\n\nproviders: a\nprompts: [b]\n", True),
        ('{"description": "x", "prompts": ["b"]}\n', True),
        ('{\n  "prompts": ["b"]\n}\n', True),
        ('\ufeff"prompts":\n- b\n', True),
        ('{"model": "o3", "input": "\\"prompts\\""}\n', False),
        ('{"model": "o3", "prompts": ["b"], "input": "x"}\n', False),
        ('{"broken": \n{"model": "o3", "input": "x"}\n', False),
        ("timestamp,model,prompts:\n1,2,3\n", False),
        ("error: not a job\nsub:\n  prompts: 3\n", False),
        ("", False),
    ],
)
def test_a_suite_is_told_by_its_content(tmp_path: Path, text: str, suite: bool) -> None:
    """A mapping with prompts is a suite, in YAML and in JSON; a job, a trace and a folder are none."""
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    assert is_suite(path) is suite
    assert not is_suite(tmp_path)


def test_a_suite_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many requests, aliases of aliases, a text that grows and a file too large end in a message."""
    values = ", ".join(f"'{number}'" for number in range(101))
    many = ONE + "tests: [{vars: {" + ", ".join(f"{name}: [{values}]" for name in "xyz") + "}}]\n"
    with pytest.raises(ConfigError, match="1,030,301 requests; a suite has at most 1,000,000"):
        bodies(write(tmp_path, {}, many))
    bomb = ONE + "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    with pytest.raises(ConfigError, match=r"a6\[\d\]: more than 2,000,000 values once its aliases are written out"):
        bodies(write(tmp_path, {}, bomb))
    deep = ONE + "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 50))
    with pytest.raises(ConfigError, match="nested more than 32 deep"):
        bodies(write(tmp_path, {}, deep))
    monkeypatch.setattr(template, "MAX_CHARACTERS", 1_000)
    grows = ONE + "tests: [{vars: {x: '" + "{{y}}" * 20 + "', y: '" + "{{z}}" * 20 + "', z: " + "w" * 9 + "}}]\n"
    assert asked(grows, tmp_path) == [
        "prompt 'prompt-1', test '1': longer than 1,000 characters once its variables are in it"
    ]
    monkeypatch.setattr(rendering, "MAX_BYTES", 10)
    with pytest.raises(ConfigError, match="larger than 10 bytes"):
        bodies(write(tmp_path, {}, ONE))
