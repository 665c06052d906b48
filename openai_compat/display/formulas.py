"""Which formulas are typeset: those made of nothing but known notation. All others are shown as they were written.

TeX is a programming language. In a formula, MathJax makes links that run scripts, and TeX reads files into the
document, never ends, or stops at the first mistake. So a formula is read to its end by a small grammar: characters,
known commands with their arguments, scripts, known environments. What it cannot read is no formula.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator

_NAMED = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa varkappa lambda mu nu xi pi varpi
rho varrho sigma varsigma tau upsilon phi varphi chi psi omega
Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega
pm mp times div cdot ast star circ bullet oplus ominus otimes oslash odot dagger ddagger cap cup uplus sqcap sqcup vee
wedge land lor lnot neg setminus smallsetminus wr diamond amalg
le leq leqslant ge geq geqslant ll gg ne neq equiv sim simeq approx approxeq cong doteq propto prec succ preceq succeq
subset supset subseteq supseteq subsetneq supsetneq sqsubseteq sqsupseteq in ni notin mid nmid parallel nparallel perp
vdash dashv models asymp bowtie vDash lt gt lesssim gtrsim triangleq nleq ngeq not
leftarrow rightarrow to gets leftrightarrow Leftarrow Rightarrow Leftrightarrow implies impliedby iff mapsto longmapsto
longleftarrow longrightarrow longleftrightarrow Longleftarrow Longrightarrow Longleftrightarrow hookleftarrow
hookrightarrow uparrow downarrow updownarrow Uparrow Downarrow Updownarrow nearrow searrow swarrow nwarrow
rightharpoonup rightharpoondown leftharpoonup leftharpoondown rightleftharpoons leftrightharpoons rightsquigarrow
leadsto twoheadrightarrow
infty partial nabla forall exists nexists emptyset varnothing aleph beth hbar ell wp Re Im imath jmath angle
measuredangle triangle square blacksquare Box Diamond lozenge top bot prime backprime backslash flat natural sharp
clubsuit diamondsuit heartsuit spadesuit checkmark therefore because complement surd
ldots cdots vdots ddots dots dotsb dotsc dotsi dotsm colon quad qquad enspace thinspace displaystyle textstyle
scriptstyle scriptscriptstyle lbrace rbrace lbrack rbrack langle rangle lfloor rfloor lceil rceil vert Vert lvert rvert
lVert rVert ulcorner urcorner llcorner lrcorner
arccos arcsin arctan arg cos cosh cot coth csc deg dim exp hom ker lg ln log sec sin sinh tan tanh bmod
"""
_OPERATORS = """
sum prod coprod int iint iiint oint bigcap bigcup bigsqcup bigvee bigwedge bigodot bigotimes bigoplus biguplus
lim limsup liminf max min sup inf det gcd Pr
"""
_WITH_ARGUMENT = """
hat bar vec dot ddot dddot tilde check breve acute grave mathring widehat widetilde overline underline overrightarrow
overleftarrow overbrace underbrace boxed phantom hphantom vphantom mathrm mathbf mathit mathsf mathtt mathbb mathcal
mathfrak boldsymbol pmb mathop mathbin mathrel mathord mathopen mathclose pmod pod xrightarrow xleftarrow
"""
_WITH_TWO = """
frac dfrac tfrac cfrac binom dbinom tbinom overset underset stackrel
"""
_ARGUMENTS = {**dict.fromkeys(_WITH_ARGUMENT.split(), 1), **dict.fromkeys(_WITH_TWO.split(), 2)}
_SYMBOLS = {*_NAMED.split(), *_OPERATORS.split()}
_LIMITED = {f"\\{name}" for name in _OPERATORS.split()}
_TEXTS = {"text", "textrm", "textbf", "textit", "textsf", "texttt", "textnormal", "mbox", "operatorname", "tag"}
_SIZES = {size + side for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r", "m")}
_DELIMITERS = {
    *"()[]|/.<>",
    *(r"\{", r"\}", r"\|"),
    *(f"\\{side}{name}" for name in ("brace", "brack", "angle", "floor", "ceil", "vert", "Vert") for side in "lr"),
    *(r"\vert", r"\Vert", r"\backslash", r"\uparrow", r"\downarrow", r"\Uparrow", r"\Downarrow"),
}
_ESCAPES = {*(f"\\{character}" for character in "{}|%$&#_,;:!> ")}
_CHARACTERS = {*"+-*/=<>()[]|.,:;!?@\"'"}
# How many columns TeX takes, and what it takes within a displayed formula in place of what MathJax takes there too.
_COLUMNS = {
    **dict.fromkeys(("matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix", "smallmatrix"), 10),
    **dict.fromkeys(("cases", "split"), 2),
    **dict.fromkeys(("gathered", "gather", "gather*"), 1),
    **dict.fromkeys(("aligned", "align", "align*"), 20),
}
_INNER = {"split": "aligned", "align": "aligned", "align*": "aligned", "gather": "gathered", "gather*": "gathered"}

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)
_NAME = re.compile(r"\{([A-Za-z]+\*?)\}")
_COLUMN_SPEC = re.compile(r"\s*\{([lcr|\s]{1,40})\}")
_ROW_SPACE = re.compile(r"\s*\[(\d{0,3}\.?\d{1,3}\s*(?:pt|em|ex|mm|cm))\]")
_TEXT = re.compile(r"(\*?)\s*\{((?:[^\\{}$%#&_^~`\x00-\x1f\x7f]|[\n\t]|\\[ ,%&_#]){0,500})\}")
MAX_DEPTH = 40
_RIGHT = r"\right"


class _Refused(Exception):  # noqa: N818 - never leaves this file
    pass


@functools.lru_cache(1000)
def typesettable(formula: str) -> str | None:
    """The formula between its dollars, as TeX typesets it without a mistake; None for what is no formula."""
    if "\n\n" in re.sub(r"[^\S\n]", "", formula):
        return None
    try:
        return _Reader(formula).until("", columns=1).strip() or None
    except _Refused:
        return None


class _Reader:
    """Reads a formula, and gives it back with braces and spaces where TeX or Markdown might want them."""

    def __init__(self, formula: str) -> None:
        self._formula = formula
        self._at = 0
        self._depth = 0

    def until(self, end: str, columns: int = 0) -> str:
        """All up to ``end``, in rows of at most so many columns; 0 where there are no rows."""
        with self._deeper():
            return "".join(self._pieces(end, columns))

    def _pieces(self, end: str, columns: int) -> Iterator[str]:
        scripts: set[str] = set()
        column, before = 1, ""
        while (token := self._take()) != end:
            if token in ("^", "_", "'"):
                if token in scripts or (token == "'" and "^" in scripts):
                    raise _Refused
                if token == "'":
                    yield token
                else:
                    scripts.add(token)
                    if before == "'":  # A prime is a superscript, which another one can only join right away.
                        scripts.add("^")
                    yield f"{token}{{{self._argument()}}}"
            elif token in (r"\limits", r"\nolimits") and before in _LIMITED:
                yield f"{token} "
            else:
                scripts.clear()
                if token == "&" and column < columns:
                    column += 1
                    yield " & "
                elif token == r"\\" and columns:
                    column = 1
                    yield self._row_end()
                else:
                    yield self._atom(token)
            before = token

    def _atom(self, token: str) -> str:
        name = token[1:]
        if token == "{":
            return f"{{{self.until('}')}}}"
        if token in _CHARACTERS or token.isalnum() or (token > "\x9f" and token.isprintable()):
            # Neither a tag nor a link, should somebody read it as Markdown.
            return f"{token} " if token in "<]!" else token
        if token in _ESCAPES:
            return r"\;" if token == r"\ " else token  # whose space would get lost at an end
        if name in _SYMBOLS:
            return {"lt": "< ", "gt": "> "}.get(name, f"{token} ")
        if name in _ARGUMENTS:
            return token + "".join(f"{{{self._argument()}}}" for _ in range(_ARGUMENTS[name]))
        if name == "sqrt":
            return f"{token}{self._degree()}{{{self._argument()}}}"
        if name == "substack" and self._take() == "{":
            return f"{token}{{{self.until('}', columns=1)}}}"
        if name in _TEXTS:
            return self._text(name)
        if name in _SIZES:
            return token + self._delimiter()
        if name == "left":
            return rf"\left{self._delimiter()}{self.until(_RIGHT)}\right{self._delimiter()}"
        if name == "begin":
            return self._environment()
        raise _Refused

    def _argument(self) -> str:
        token = self._take()
        if token == "{":
            return self.until("}")
        with self._deeper():
            return self._atom(token)

    def _degree(self) -> str:
        """The degree of a root, in square brackets."""
        if self._peek() != "[":
            return ""
        self._take()
        return f"[{self.until(']')}]"

    def _text(self, name: str) -> str:
        found = self._match(_TEXT)
        star, words = found[1], re.sub(r"([<\]!])(?=\S)", r"\1 ", re.sub(r"\s+", " ", found[2]))
        if star and name != "operatorname":
            raise _Refused
        return rf"\qquad \text{{({words})}}" if name == "tag" else rf"\{name}{star}{{{words}}}"

    def _delimiter(self) -> str:
        token = self._take()
        if token not in _DELIMITERS:
            raise _Refused
        return f"{token} "

    def _row_end(self) -> str:
        space = f"[{self._match(_ROW_SPACE)[1]}]" if self._peek() == "[" else ""
        return rf"\\{space} "

    def _environment(self) -> str:
        name = self._match(_NAME)[1]
        columns, spec = _COLUMNS.get(name, 0), ""
        if name == "array":
            spec = f"{{{self._match(_COLUMN_SPEC)[1]}}}"
            columns = len(re.findall("[lcr]", spec))
        if not columns:
            raise _Refused
        rows = self.until(r"\end", columns)
        if self._match(_NAME)[1] != name:
            raise _Refused
        inner = _INNER.get(name, name)
        return rf"\begin{{{inner}}}{spec}{rows}\end{{{inner}}}"

    @contextlib.contextmanager
    def _deeper(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Refused
        yield
        self._depth -= 1

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self._formula, self._at)
        if found is None:
            raise _Refused
        self._at = found.end()
        return found

    def _peek(self) -> str:
        at, token = self._at, self._take()
        self._at = at
        return token

    def _take(self) -> str:
        """The next token but spaces; an empty string at the end."""
        while found := _TOKEN.match(self._formula, self._at):
            self._at = found.end()
            if not found[0].isspace():
                return found[0]
        return ""
