"""User templates: what reaches C, what is refused, and which line is named."""

import pytest

from kubebee.render import catalog
from kubebee.render.errors import RenderError
from kubebee.render.user import render_user


def test_values_take_their_c_form() -> None:
    rendered = render_user(
        "{{ i }} {{ b }} {{ n }} {{ s | cstring }}", {"i": "x", "b": True, "n": -3, "s": 'a"'}
    )
    assert rendered.text == r'x 1 (-3) "a\042"'


def test_every_line_knows_its_template_line() -> None:
    text = "a\n{% for i in range(2) %}\nx{{ i }}\n{% endfor %}\nend"
    rendered = render_user(text, {}, "t.j2")
    assert rendered.text == "a\nx0\nx1\nend"
    assert [line.line for line in rendered.lines] == [1, 3, 3, 5]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n{{ missing }}", "TemplateUndefined"),
        ("\n{{ ().__class__.__mro__ }}", "TemplateForbidden"),
        ("\n{{ code }}", "TemplateValue"),
        ("\n{% if %}", "TemplateSyntax"),
        ("\n{% include '/etc/passwd' %}", "TemplateValue"),
        ("\n{{ range(10 ** 9) }}", "TemplateValue"),
    ],
)
def test_a_bad_template_is_refused_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(RenderError) as caught:
        render_user(text, {"code": "0; evil()"}, "t.j2")
    assert (caught.value.reason, caught.value.where) == (reason, "t.j2:2")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "TemplateTimeout"),
        ("{{ 'a' * (10 ** 10) }}", "TemplateTooLarge"),
        ("{% for i in range(99999) %}xxxxxxxxxxxxxxxx{% endfor %}", "TemplateTooLarge"),
    ],
)
def test_a_template_that_takes_too_much_is_stopped(text: str, reason: str) -> None:
    with pytest.raises(RenderError) as caught:
        render_user(text, {}, deadline_seconds=1)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", catalog.names())
def test_every_builtin_template_renders_with_its_defaults(name: str) -> None:
    template = catalog.get(name)
    defaults = {param.name: param.default for param in template.params if param.default is not None}
    assert "SEC(" in render_user(template.text, defaults, name).text
