"""Templates of reports: pages that need nothing else, every value escaped, a missing one an error."""

from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template

from medseg_core.assessment import absences, report_text

PARTS = "medseg_core.assessment"  # report_parts.html.j2, report.css
FILTERS = (
    report_text.number,
    report_text.signed,
    report_text.percentage,
    report_text.between,
    report_text.signed_between,
    report_text.duration,
    report_text.megabytes,
    report_text.counted,
    report_text.listing,
    absences.reason,
    absences.remedy,
)


@cache
def report_template(name: str, package: str = PARTS) -> Template:
    """A template of a package, which may use the parts that reports have in common."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader(PARTS, "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    return environment.get_template(name)
