"""For tests: the contract that every emulator is checked against, and searches whose answer is known."""

from physteer.testing.contract import CHECKS, ContractReport, check_forecaster

__all__ = ["CHECKS", "ContractReport", "check_forecaster"]
