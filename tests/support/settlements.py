"""A hypothesis strategy for every kind of settlement."""

from datetime import timedelta

from hypothesis import strategies as st

from workers.runtime.handler.outcomes import Cancel, Complete, Fail, Release, Retry, Snooze

REASONS = st.text(alphabet=st.characters(codec=None), min_size=1, max_size=20)
SETTLEMENTS = st.one_of(
    st.just(Complete()),
    st.builds(Snooze, st.timedeltas(timedelta(), timedelta(days=1)), REASONS),
    st.builds(Fail, REASONS),
    st.builds(Cancel, REASONS),
    st.builds(Retry, REASONS),
    st.builds(Release, REASONS),
)
