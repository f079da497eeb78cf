"""What hurt users of other gateways to language models, and the tests that keep it from happening here.

The numbers are those that docstrings of tests name (``C6``, ``Row 6``): faults that threads of public repositories
report (LiteLLM, Portkey, OpenRouter's clients, Langfuse, Hatchet, promptfoo and others).
"""

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
WINDOWS = "integration/llm/admission/test_admission_windows.py"
BUDGETS = "integration/llm/admission/test_admission_budgets.py"
PROCESS = "integration/llm/admission/test_admission_process.py"
TURNS = "integration/llm/admission/test_admission_turns.py"
CRASHES = "integration/llm/admission/test_admission_crashes.py"
LEDGER = "integration/llm/ledger/test_ledger.py"
SPEND = "integration/llm/ledger/test_spend.py"
MODEL = "integration/llm/test_controlled_model.py"
OUTAGE = "integration/llm/test_provider_outage.py"
BATCH = "integration/llm/batch_lane/test_batch_lane.py"
BATCH_CRASHES = "integration/llm/batch_lane/test_batch_crashes.py"
KEPT = "integration/llm/kept/test_kept_flights.py"
PRICES = "unit/llm/ledger/test_prices.py"
DECIDED = "unit/llm/test_calls_decided.py"

FAULTS: dict[tuple[int, str], list[str]] = {
    (1, "a budget is checked before a call and charged after it; a new user's first calls see no budget"): [
        f"{BUDGETS}::test_the_first_call_of_a_user_is_under_the_budget",
        f"{BUDGETS}::test_64_writers_at_once_never_overspend",
        f"{PROCESS}::test_two_questions_at_once_are_answered_one_after_the_other",
    ],
    (2, "tokens are counted only after the answer"): [
        f"{WINDOWS}::test_tokens_count_before_the_answer",
        f"{WINDOWS}::test_what_a_call_did_not_use_is_free_again",
    ],
    (3, "a call that one limit refuses uses a unit of another"): [f"{WINDOWS}::test_a_refusal_changes_nothing"],
    (4, "requests and tokens share one window"): [f"{WINDOWS}::test_each_limit_has_a_window_of_its_own"],
    (5, "each question prolongs the window, which never ends"): [
        f"{WINDOWS}::test_questions_do_not_prolong_a_window",
        f"{CRASHES}::test_six_processes_keep_limits_whatever_their_clocks_say",
    ],
    (6, "reservations are never ended, or added twice"): [
        f"{LEDGER}::test_a_silent_worker_leaves_orphans",
        f"{LEDGER}::test_a_run_that_is_over_leaves_orphans",
        f"{PROCESS}::test_a_lost_answer_is_no_second_reservation",
        f"{PROCESS}::test_a_question_that_arrives_late_changes_nothing",
        f"{WINDOWS}::test_what_was_counted_can_be_rebuilt_from_the_ledger",
        f"{CRASHES}::test_100_crashes_lose_no_money_and_no_limit",
    ],
    (7, "a settle that is repeated adds its cost again"): [
        f"{LEDGER}::test_a_settle_counts_once",
        f"{PROCESS}::test_a_lost_answer_to_an_end_is_no_second_end",
    ],
    (8, "a call of unknown price is free"): [
        f"{BUDGETS}::test_an_unknown_price_is_refused_under_a_money_budget_alone",
        f"{SPEND}::test_calls_are_priced_by_what_is_published_and_refused_where_nobody_knows",
        f"{PRICES}::test_what_the_table_cannot_say_is_unknown_and_never_nothing",
    ],
    (9, "spend is taken from a counter, and lost as its commit fails"): [
        f"{PROCESS}::test_the_end_of_a_cancelled_caller_is_recorded",
        f"{PROCESS}::test_an_end_that_no_row_can_hold_is_recorded_without_what_is_odd",
        f"{CRASHES}::test_100_crashes_lose_no_money_and_no_limit",
    ],
    (10, "calls are made while the store of the limits is away"): [
        f"{PROCESS}::test_without_postgres_nothing_is_admitted",
        f"{MODEL}::test_nothing_is_called_while_admission_cannot_be_asked",
    ],
    (11, "a process reads its own copy before the shared truth"): [
        f"{PROCESS}::test_processes_share_what_is_spent",
        f"{PROCESS}::test_a_provider_that_refuses_is_left_alone_by_all",
    ],
    (12, "budgets are reset by a job, too late, twice, or in another zone"): [
        f"{BUDGETS}::test_a_window_is_that_of_the_wall_clock",
        f"{BUDGETS}::test_a_day_ends_at_midnight_of_its_zone",
        f"{BUDGETS}::test_windows_end_at_their_edges",
        f"{BUDGETS}::test_a_call_that_ends_in_the_next_window_is_paid_by_its_own",
    ],
    (13, "a fallback runs in a circle, or begins the count of attempts anew"): [
        f"{MODEL}::test_a_path_is_fixed_and_each_step_is_visited_once",
        f"{MODEL}::test_one_budget_of_attempts_for_the_whole_path",
    ],
    (14, "the only server of a group never cools down; equal failures count once"): [
        f"{MODEL}::test_every_failed_attempt_feeds_the_breaker",
        f"{OUTAGE}::test_outage_costs_nobody_an_attempt_and_is_hardly_asked",
    ],
    (15, "an open breaker is asked first; a 429 opens it, or does not fall back"): [
        f"{MODEL}::test_an_open_breaker_is_not_asked_first",
        f"{MODEL}::test_a_429_cools_the_model_down_and_the_call_waits_in_its_run",
        f"{MODEL}::test_a_long_limit_falls_back_and_a_short_one_waits",
    ],
    (16, "a cancelled answer is recorded as free"): [
        f"{MODEL}::test_a_cancelled_call_keeps_its_estimate",
        f"{MODEL}::test_an_answer_without_usage_leaves_it_open",
        f"{BUDGETS}::test_usage_that_the_provider_does_not_say_is_as_estimated",
    ],
    (17, "a batch is billed once per look at it, or never, or to nobody"): [
        f"{BATCH}::test_jobs_are_answered_by_one_batch_for_half_the_price",
        f"{BATCH}::test_a_batch_is_paid_by_the_owners_of_its_jobs_however_often_it_is_looked_at",
        f"{BATCH}::test_a_sum_that_differs_from_the_lines_is_told",
        f"{BATCH_CRASHES}::test_a_crash_at_any_step_leads_to_no_second_batch",
    ],
    (18, "batches are counted in the windows of a minute"): [
        f"{LEDGER}::test_the_batch_lane_is_under_budgets_alone",
        f"{BATCH}::test_batches_stay_within_the_allowance_of_enqueued_tokens",
        f"{BATCH}::test_a_full_queue_of_the_provider_costs_a_line_no_try",
    ],
    (19, "an expired batch is sent again whole; results are matched by their place; nobody cancels upstream"): [
        f"{BATCH}::test_expired_and_failed_lines_alone_are_asked_again",
        f"{BATCH}::test_results_are_matched_by_name_whatever_their_order_and_number",
        f"{BATCH}::test_a_batch_is_cancelled_when_no_job_waits_for_it",
        f"{BATCH}::test_cancelling_the_batch_cancels_it_upstream_and_frees_its_jobs",
    ],
    (20, "a batch is pending beyond its time"): [
        f"{BATCH}::test_the_normal_lane_takes_over_when_the_time_is_nearly_over",
        f"{BATCH}::test_partial_results_of_an_expired_batch_are_taken",
    ],
    (21, "no max_tokens is sent; an empty account is retried like an outage"): [
        f"{MODEL}::test_max_tokens_is_always_sent",
        f"{MODEL}::test_an_empty_account_pauses_its_key_alone",
        f"{MODEL}::test_another_key_is_asked_at_once_and_the_jobs_are_woken",
    ],
    (22, "cached and reasoning tokens are mispriced, costs are negative, cached answers are billed"): [
        f"{PRICES}::test_each_token_is_paid_once_and_by_its_class",
        f"{PRICES}::test_no_report_of_a_provider_makes_a_cost_negative",
        f"{LEDGER}::test_the_ledger_refuses_what_cannot_be",
        f"{DECIDED}::test_usage_is_kept_by_class_and_as_it_came",
        f"{KEPT}::test_a_shared_answer_is_in_the_ledger_and_costs_nothing",
        f"{KEPT}::test_the_kept_answers_of_a_job_are_in_the_ledger_of_its_next_run",
        f"{MODEL}::test_vectors_that_were_there_are_in_the_ledger_as_cached",
    ],
    (23, "a limit resets itself, or its window is longer than it says"): [
        f"{WINDOWS}::test_no_window_has_more_than_its_limit",
        f"{WINDOWS}::test_a_window_ends_after_its_length_and_not_before",
        f"{WINDOWS}::test_under_load_a_window_is_used",
    ],
    (24, "a limit per day is retried for hours; a wait sleeps in its process; the wrong limit is named"): [
        f"{PROCESS}::test_a_refusal_says_what_and_until_when",
        f"{WINDOWS}::test_a_refused_call_is_admitted_at_the_time_it_was_told",
        f"{TURNS}::test_who_may_not_wait_so_long_is_told_at_once",
        f"{MODEL}::test_a_wait_that_is_longer_than_the_run_is_a_snooze_that_names_the_limit",
        f"{MODEL}::test_a_limit_per_day_waits_for_its_reset",
    ],
    (25, "one update per key, team and user for each call: deadlocks"): [
        f"{CRASHES}::test_100_crashes_lose_no_money_and_no_limit",
        f"{CRASHES}::test_six_processes_keep_limits_whatever_their_clocks_say",
        f"{PROCESS}::test_calls_of_one_moment_are_one_statement",
    ],
}


@cache
def names_in(file: str) -> frozenset[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse((TESTS / file).read_text())
    found = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return frozenset(one.name for one in found if one.name.startswith("test_"))


@pytest.mark.parametrize(("fault", "tests"), FAULTS.items(), ids=lambda _: None)
def test_every_fault_of_others_has_its_tests(fault, tests):
    """A test that is renamed or deleted must be replaced here too."""
    missing = [name for name in tests if name.partition("::")[2] not in names_in(name.partition("::")[0])]

    assert tests, fault
    assert not missing, (fault, missing)


def test_every_number_has_its_fault():
    """25 of them."""
    assert [number for number, _ in FAULTS] == list(range(1, 26))
