from . import html as html, ledger as ledger, preview as preview, report as report
from .html import ENVIRONMENT as ENVIRONMENT, Section as Section, render_page as render_page
from .ledger import LedgerRow as LedgerRow, Status as Status
from .report import render_report as render_report
from .sections import ingest_sections as ingest_sections
