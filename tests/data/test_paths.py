import pytest

from diffusion.data.paths import inside
from diffusion.errors import DataError

WHERE = "captions.csv, line 3, field file_name"


@pytest.fixture
def root(tmp_path):
    """A data folder beside a secret, with links inside it, to it and out of it."""
    root = tmp_path / "data"
    (root / "cat").mkdir(parents=True)
    (root / "cat" / "a.png").touch()
    (tmp_path / "secret.txt").touch()
    (tmp_path / "data2").mkdir()
    (root / "alias").symlink_to("cat")
    (root / "out").symlink_to(tmp_path)
    (root / "cat" / "out.png").symlink_to(tmp_path / "secret.txt")
    (root / "circle").symlink_to("circle")  # leads nowhere
    (tmp_path / "link").symlink_to(root)
    return root


@pytest.mark.parametrize(
    "name", ["cat/a.png", "./cat/a.png", "alias/a.png", "new/é 1.png", "a..b.png", "...", "circle"]
)
def test_names_within(root, name):
    assert inside(root, name, WHERE) == root / name


def test_the_data_folder_may_be_a_link_itself(root):
    assert inside(root.parent / "link", "cat/a.png", WHERE).samefile(root / "cat" / "a.png")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/etc/passwd", "is absolute"),
        ("../secret.txt", "goes up by .."),
        ("cat/../../secret.txt", "goes up by .."),
        ("cat/..", "goes up by .."),
        ("..", "goes up by .."),
        ("C:/a.png", "names a drive"),
        ("C:a.png", "names a drive"),
        ("\\\\server\\share\\a.png", "absolute"),
        ("..\\secret.txt", "holds a backslash"),
        ("cat\\a.png", "holds a backslash"),
        ("out/secret.txt", "leads out of the data folder"),
        ("out/data2/a.png", "leads out of the data folder"),
        ("cat/out.png", "leads out of the data folder"),
        ("a\0.png", "holds control characters"),
        ("a\n.png", "holds control characters"),
        ("", "is no file name"),
        (" ", "is no file name"),
        (None, "is no file name"),
        (3, "is no file name"),
        (".", "is the data folder itself"),
    ],
)  # fmt: skip
def test_names_that_lead_out_or_nowhere(root, name, problem):
    with pytest.raises(DataError, match=problem) as refused:
        inside(root, name, WHERE)
    said = str(refused.value)
    assert said.startswith(f"{WHERE}: the path {name!r} ") and f"a path below {root} is right" in said
