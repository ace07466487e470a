"""The blocks of a page are found, run in order, and fail when they should."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_blocks import Block, Page, blocks, commands, opened, parameters


@pytest.fixture
def new_page(tmp_path: Path) -> Iterator[Page]:
    page = Page(tmp_path / "page.md", tmp_path)
    yield page
    page.close()


PAGE = """# Title
```python
x = 1
```
text <!-- skip: not right before a block -->
more text

<!-- skip: no network -->
```bash
git clone somewhere
```

```text
not code
```

1. In a list:

   ```console
   $ echo one \\
   > two
   one two
   $ false
   ```

~~~sh
echo "```python"
~~~
"""


def test_blocks_are_found() -> None:
    assert blocks(PAGE) == [
        Block(2, "python", "x = 1\n", None),
        Block(9, "bash", "git clone somewhere\n", "no network"),
        Block(19, "console", "$ echo one \\\n> two\none two\n$ false\n", None),
        Block(26, "sh", 'echo "```python"\n', None),
    ]
    assert commands(blocks(PAGE)[2].code) == "echo one \\\ntwo\nfalse"


def test_python_blocks_share_a_namespace_and_a_directory(new_page: Page) -> None:
    new_page.run(Block(1, "python", "from pathlib import Path\nx = 1\nPath('file').write_text('2')\n", None))
    new_page.run(Block(5, "bash", "test $(cat file) = 2 && echo 3 > file\n", None))
    new_page.run(Block(9, "python", ">>> x + int(Path('file').read_text())\n4\n>>> x = 7\n", None))
    new_page.run(Block(13, "python", "assert x == 7\n", None))


@pytest.mark.parametrize(
    ("language", "code", "message"),
    [
        ("python", "pass\nundefined_name", "name 'undefined_name' is not defined"),
        ("python", ">>> 1 + 1\n3\n", "Expected"),
        ("bash", "false\ntrue\n", "status 1"),
        ("bash", "false | true\n", "status 1"),
        ("sh", "echo to the terminal; exit 7\n", "to the terminal"),
        ("console", "$ true\n$ false\n", "status 1"),
        ("console", "no prompt\n", "A console block has its commands behind"),
    ],
)
def test_a_block_that_fails_fails_the_test(new_page: Page, language: str, code: str, message: str) -> None:
    with pytest.raises((AssertionError, NameError)) as failure:
        new_page.run(Block(3, language, code, None))
    assert message in str(failure.value)


def test_a_background_process_ends_with_the_page(new_page: Page) -> None:
    new_page.run(Block(1, "bash", "sleep 600 & echo $! > pid\n", None))
    pid = int((new_page.directory / "pid").read_text())
    os.kill(pid, 0)
    new_page.close()
    subprocess.run(["bash", "-c", f"for i in $(seq 100); do kill -0 {pid} 2>/dev/null || exit 0; sleep 0.1; done; exit 1"], check=True)


MARKED = """
<!-- slow: trains -->
<!-- tests: "--epochs 30" is "--epochs 1" -->
```sh
zoo train --epochs 30
```

<!-- skip: needs a cluster -->
```sh
kubectl apply
```

<!-- a remark: nothing for the tests -->
<!-- background: 8501 -->
```sh
zoo serve models
```
"""


def test_comments_before_a_block_say_what_is_different(tmp_path: Path) -> None:
    found = blocks(MARKED)
    assert found == [
        Block(4, "sh", "zoo train --epochs 1\n", slow="trains"),
        Block(9, "sh", "kubectl apply\n", skip="needs a cluster"),
        Block(15, "sh", "zoo serve models\n", background="8501"),
    ]
    (tmp_path / "page.md").write_text(MARKED)
    marks = [[mark.name for mark in parameter.marks] for parameter in parameters(tmp_path / "page.md")]
    assert marks == [["slow"], [], ["slow"]], "what comes after a slow block may need it"


@pytest.mark.parametrize(
    ("comment", "message"),
    [('"--epochs 30" is "--epochs 1"', "'--epochs 30' does not stand in the block"), ("fewer epochs", "not `fewer epochs`")],
)
def test_what_the_tests_run_instead_has_to_stand_in_the_block(comment: str, message: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        blocks(f"<!-- tests: {comment} -->\n```sh\nzoo train\n```\n")


def test_a_background_block_is_waited_for_and_ends_with_the_page(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("<!-- background: 8501 -->\n```sh\npython -m http.server 8501 --bind 127.0.0.1\n```\n```sh\ncurl\n```\n")
    with opened(tmp_path / "page.md", tmp_path) as page:
        server, _ = blocks((tmp_path / "page.md").read_text())
        assert server.background
        page.run(server)
        page.run(Block(9, "python", "import urllib.request\nprint(urllib.request.urlopen('http://127.0.0.1:8501/').status)\n"))
        assert page.with_ports("zoo serve m") == f"zoo serve --rest_api_port={page.ports['8501']} --port={page.ports['8500']} m"
    with pytest.raises(AssertionError, match="ended with status 7 before port 8501 answered"):
        page.run(Block(1, "sh", "exit 7", background="8501"))


def test_what_a_page_registers_and_imports_is_gone_afterwards(tmp_path: Path) -> None:
    import sys

    import zoo

    names = zoo.list_models()
    (tmp_path / "page.md").touch()
    with opened(tmp_path / "page.md", tmp_path) as page:
        page.run(Block(1, "sh", "echo 'import zoo\nzoo.register_model(name=\"passing\")(lambda input_shape, num_classes: None)' > passing_model.py"))
        assert (tmp_path / "passing_model.py").is_file()
        page.run(Block(2, "python", "import passing_model"))
        assert "passing_model" in sys.modules
    assert zoo.list_models() == names
    assert "passing_model" not in sys.modules
