"""Invoices: DuckDB in, DuckDB out, and a downstream asset that says what a manager must approve."""

from enum import StrEnum
from typing import Literal

import dagster as dg
from pydantic import BaseModel, Field

from batch_pipeline import BatchPipeline, DuckDBSource, DuckDBTable, MessageTemplate, Schedule
from batch_pipeline.demo.incoming import write_invoices
from batch_pipeline.demo.places import Places, nightly_cron

HANDBOOK = """\
You are an accounts-payable clerk. You get one line of an invoice at a time: who sent it, and what
it is for. Say which department pays for it, how much it is, in which currency, and why you chose
that department. You read nothing but the line itself. There is nobody whom you could ask, so
always give the most likely answer.

The departments, and words that speak for each:
IT: cloud, hosting, infrastructure, servers, software, subscription, laptops, monitors
IT: network, data centre, backup, cybersecurity, firewall, antivirus, domain, helpdesk
IT: developer tools, storage, AWS, Azure, database, broadband
HR: job posting, recruitment, hiring, candidates, payroll, training, workshop, onboarding
HR: health insurance, wellness, background checks, employee survey, relocation, benefits
HR: visa, staffing, headhunter, learning, gratuity, pension
Admin: hotel, conference room, offsite, travel, flights, taxi, catering, furniture, chairs
Admin: cleaning, housekeeping, electricity, rent, stationery, courier, printing paper, security
Admin: guards, office maintenance, plants, pantry
Marketing: design, Adobe, advertising, campaign, branding, brochure, banners, trade fair, booth
Marketing: social media, video, influencer, photography, newsletter, website copy, public relations
Marketing: sponsorship, creative agency, search ads
Finance: audit, tax, consulting, risk assessment, accounting, bookkeeping, bank charges, legal
Finance: compliance, valuation, interest, insurance broker, EY, Deloitte, KPMG, PwC, due diligence
Finance: invoice factoring, treasury, GST filing

House rules:
- What was bought decides, not who sold it. A hotel that invoices a recruitment event is a cost of
  the event.
- Software for designers is paid by the people who design with it. Software for everybody is paid
  by IT.
- Advice about money, taxes, risk or law is paid by Finance, whoever asked for it.
- Training is paid by HR, whatever it teaches; the room in which it is held is paid by Admin.
- When two departments are equally likely, take the one whose words stand first in the line.
- The amount is a plain number: no currency sign, no thousands separators, a point before the
  cents. Taxes that the line names beside the amount are not added. If the line gives a quantity
  and a price for one, multiply them.
- The currency is its three-letter code. "Rs" and the rupee sign mean INR. Without any sign, take
  INR.
- A line that names a month or a year says for when it is paid, not when it came in. Leave it out
  of the reason.
- Credit notes and refunds are paid by nobody: give the department that had paid, and the amount
  as it stands in the line.
- The reason is one short sentence that quotes the words that decided. A manager reads it, not a
  programmer.
"""

MANAGER_LIMITS = {"INR": 200_000.0, "USD": 2_400.0, "EUR": 2_100.0}
SHOWN_APPROVALS = 10


class Department(StrEnum):
    """Who pays."""

    IT = "IT"
    HR = "HR"
    ADMIN = "Admin"
    MARKETING = "Marketing"
    FINANCE = "Finance"


class Posting(BaseModel):
    """What the clerk makes of one invoice."""

    department: Department
    amount: float = Field(description="What is to be paid, as a plain number.")
    currency: Literal["INR", "USD", "EUR"]
    reason: str = Field(description="One short sentence that quotes the deciding words.")


def invoices_pipeline(places: Places) -> BatchPipeline:
    """Return the pipeline: which department pays for each invoice."""
    return BatchPipeline(
        name="invoices",
        source=DuckDBSource(database=places.warehouse, table="invoices", key="invoice_id"),
        request=MessageTemplate(
            model="claude-sonnet-5",
            max_tokens=256,
            system=HANDBOOK,
            prompt="Supplier: {{ supplier }}\nText: {{ description }}",
            output=Posting,
            cache="1h",
            # This model thinks unasked, and thinking is paid as output: a word needs none.
            params={"thinking": {"type": "disabled"}},
        ),
        destination=DuckDBTable(database=places.warehouse, table="invoice_answers"),
        schedule=Schedule(nightly_cron(), status=dg.DefaultScheduleStatus.RUNNING),
        upstream=[dg.AssetKey(["invoices", "incoming"])],
    )


def incoming_asset(places: Places) -> dg.AssetsDefinition:
    """Return the asset that stands for what fills the warehouse in a real project."""

    @dg.asset(
        key=["invoices", "incoming"],
        group_name="invoices",
        kinds={"duckdb"},
        description="The invoices that came in. The demo makes them up, the same ones every time.",
    )
    def incoming() -> dg.MaterializeResult:
        return dg.MaterializeResult(
            metadata={"dagster/row_count": write_invoices(places["warehouse"])}
        )

    return incoming


class Limits(dg.Config):
    """Above which amount a manager must approve."""

    limits: dict[str, float] = MANAGER_LIMITS


def approvals_asset(places: Places) -> dg.AssetsDefinition:
    """Return the downstream asset, which runs by itself whenever the results have changed."""

    @dg.asset(
        key=["invoices", "approvals"],
        deps=[dg.AssetKey(["invoices", "results"])],
        group_name="invoices",
        kinds={"duckdb"},
        automation_condition=dg.AutomationCondition.eager(),
        description="Every invoice that has an answer, and whether a manager must approve it.",
    )
    def approvals(config: Limits) -> dg.MaterializeResult:
        from batch_pipeline.demo.warehouse import connect

        with connect(places["warehouse"]) as warehouse:
            warehouse.execute(
                """
                create or replace table invoice_approvals as
                select invoice_id, supplier, description, department, amount, answers.currency,
                       amount > coalesce(limits.amount_limit, 0) as needs_manager, reason
                from invoice_answers as answers
                left join (
                    select unnest($currencies) as currency, unnest($amounts) as amount_limit
                ) as limits using (currency)
                where _status = 'answered'
                order by invoice_id""",
                {"currencies": list(config.limits), "amounts": list(config.limits.values())},
            )
            by_department = warehouse.sql("""
                select department, count(*), count(*) filter (needs_manager)
                from invoice_approvals group by all order by department""").fetchall()
            largest = warehouse.sql(f"""
                select invoice_id, supplier, description, department, amount, currency
                from invoice_approvals where needs_manager
                order by amount desc limit {SHOWN_APPROVALS}""")
            rows = [dict(zip(largest.columns, row, strict=True)) for row in largest.fetchall()]
        lines = [f"| {name} | {count:,} | {flagged:,} |" for name, count, flagged in by_department]
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": sum(count for _, count, _ in by_department),
                "for_a_manager": sum(flagged for _, _, flagged in by_department),
                "by_department": dg.MetadataValue.md(
                    "\n".join(
                        ["| department | invoices | for a manager |", "|---|--:|--:|", *lines]
                    )
                ),
                "largest": dg.MetadataValue.table([dg.TableRecord(row) for row in rows]),
            }
        )

    return approvals
