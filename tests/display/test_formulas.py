"""Formulas: what is typeset, and that nothing else is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_compat.display import formulas
from openai_compat.display.formulas import typesettable

KNOWN = [
    (r"a^2+b_1=c^{2x}", r"a^{2}+b_{1}=c^{2x}"),
    (r"\frac12 \hat x", r"\frac{1}{2}\hat{x}"),
    (r"\int_0^\infty e^{-x^2}\,dx", r"\int _{0}^{\infty }e^{-x^{2}}\,dx"),
    (r"\sqrt[3]{x}+\sqrt\pi", r"\sqrt[3]{x}+\sqrt{\pi }"),
    (r"\sum\limits_{i=1}^n i", r"\sum \limits _{i=1}^{n}i"),
    (r"\sum_{\substack{a\\b}}", r"\sum _{\substack{a\\ b}}"),
    (r"\left(\frac{a}{b}\right)^n", r"\left( \frac{a}{b}\right) ^{n}"),
    (r"\bigl\{x\bigr\}", r"\bigl\{ x\bigr\}"),
    (r"\begin{pmatrix}a&b\\c&d\end{pmatrix}", r"\begin{pmatrix}a & b\\ c & d\end{pmatrix}"),
    (r"\begin{cases}1&\text{if } x\\[2pt]0\end{cases}", r"\begin{cases}1 & \text{if }x\\[2pt] 0\end{cases}"),
    (r"\begin{array}{c|r}a&b\end{array}", r"\begin{array}{c|r}a & b\end{array}"),
    (r"\operatorname*{arg\,max}_x f''(x)", r"\operatorname*{arg\,max}_{x}f''(x)"),
    ("α + 5\\%", "α+5\\%"),
    # MathJax takes these within dollars, TeX does not.
    (r"\begin{align*}a&=b\end{align*}", r"\begin{aligned}a & =b\end{aligned}"),
    (r"E=mc^2\tag{1}", r"E=mc^{2}\qquad \text{(1)}"),
    (r"x^\text{max}", r"x^{\text{max}}"),
    ("a\\ ", r"a\;"),
    # Neither a tag nor a link in another reader's eyes.
    (r"a<b>c", "a< b>c"),
    (r"[a](b)", "[a] (b)"),
]
REFUSED = [
    # Programs, files, loops.
    *(r"\input{x}", r"\include{x}", r"\write18{ls}", r"\immediate\write x", r"\openin5=x", r"\csname input\endcsname"),
    *(r"\def\a{\a}\a", r"\let\a b", r"\loop\iftrue\repeat", r"\catcode`\@=11", r"\makeatletter\@@input ./x\relax"),
    *(
        r"\ExplSyntaxOn\use:c{@@in put}~./x~\ExplSyntaxOff x",
        r"\makeatletter\csname",
        "^^5cinput{x}",
        r"\newcommand\a{b}",
    ),
    *(r"\directlua{x}", r"\special{x}", r"\usepackage{x}", r"\require{x}", r"\lstinputlisting{x}", r"\font\x=x"),
    # What MathJax makes of these is not only a picture.
    *(r"\href{javascript:1}{x}", r"\style{a}{b}", r"\class{a}{b}", r"\cssId{a}{b}", r"\unicode{x}", r"\color{red}x"),
    # Mistakes, at which TeX stops.
    *("x'_2^3", "x'_2'"),
    *("{", "}", "x^a^b", "x_a_b", "x^", "x^2'", r"\frac{a}", "a & b", "a % b", "a # b", "a $ b", "a\n\nb", "\x00"),
    *(
        r"\left(x",
        r"x\right)",
        r"\left x",
        r"\sqrt",
        r"\begin{matrix}a",
        r"\begin{matrix}a\end{pmatrix}",
        "{a & b}",
        "~",
    ),
    *(
        r"\begin{cases}a&b&c\end{cases}",
        r"\begin{document}\end{document}",
        r"\end{document}",
        r"{a \\ b}",
        r"x\limits_a",
    ),
    *(
        r"\text{a_b}",
        r"\text{\alpha}",
        r"\text a",
        r"\\[input]",
        r"\text*{a}",
        r"\begin{array}{@{\input{x}}c}a\end{array}",
    ),
    *("", " ", "{" * 2000, r"\hat" * 300, r"\sqrt{" * 300 + "}" * 300, "\\"),
]


@pytest.mark.parametrize(("formula", "written"), KNOWN)
def test_known_notation_is_typeset(formula: str, written: str) -> None:
    assert typesettable(formula) == written
    assert typesettable(written) == written


@pytest.mark.parametrize("formula", REFUSED)
def test_anything_else_is_not(formula: str) -> None:
    assert typesettable(formula) is None


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here")
def test_tex_typesets_each_of_them(tmp_path: Path) -> None:
    written = [formula for _, formula in KNOWN if formula.isascii()]
    written += [f"\\{name} " for name in sorted(formulas._SYMBOLS - {"lt", "gt"})]
    written += [f"\\{name}" + "{x}" * count for name, count in sorted(formulas._ARGUMENTS.items())]
    written += [typesettable(f"\\begin{{{name}}}a\\\\b\\end{{{name}}}") or "!" for name in sorted(formulas._COLUMNS)]
    body = "\n\n".join(f"${formula}$ $${formula}$$" for formula in written)
    preamble = r"\documentclass{article}\usepackage{amsmath,amssymb}"
    (tmp_path / "a.tex").write_text(f"{preamble}\\begin{{document}}\n{body}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=100, check=False)
    assert [line for line in done.stdout.splitlines() if line.startswith(b"!")] == []


PIECES = st.lists(
    st.sampled_from(
        [*(a for a, _ in KNOWN), *REFUSED, *r"{}^_&'[]()", r"\\", r"\left", r"\right", r"\begin", "^^", "\\"]
    )
)


@given(PIECES)
def test_no_command_but_known_ones_is_ever_let_through(pieces: list[str]) -> None:
    written = typesettable(" ".join(pieces))
    if written is None:
        return
    known = {*formulas._SYMBOLS, *formulas._ARGUMENTS, *formulas._TEXTS, *formulas._SIZES}
    known |= {"sqrt", "substack", "left", "right", "begin", "end", "limits"}
    assert {*re.findall(r"\\([A-Za-z]+)", written)} <= known
    assert {*re.findall(r"\\(?:begin|end)\{(.*?)\}", written)} <= {*formulas._COLUMNS, "array"}
    assert not re.search(r"[$#~`\n\x00]|\^\^|(?<!\\)%", written)
    assert written.count("{") - written.count(r"\{") == written.count("}") - written.count(r"\}")
    assert typesettable(written) == written
