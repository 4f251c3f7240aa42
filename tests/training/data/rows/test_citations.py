"""Citations that are not of the form that a row's documents have."""

import pytest

from training.data.rows.citations import cited


@pytest.mark.parametrize(
    ("answer", "ids", "absent"),
    [
        ("A shell runs it [T1059.001].", {"T1059"}, {"T1059.001"}),
        ("Its owner says so [gateway#owner].", {"gateway"}, {"gateway#owner"}),
        ("So it is [100].", {"1", "2", "3"}, {"100"}),
        ("So it is [Document 7].", {"1", "2"}, {"Document 7"}),
        ("So it is [doc 3, source #4].", {"net-tls"}, {"doc 3", "source #4"}),
        ("HTTPS uses 443 [3].", {"net-tls"}, {"3"}),
        ("HTTPS uses 443. [3] SSH uses 22.", {"net-tls"}, {"3"}),
        ("HTTPS uses 443.[1][2]\nSSH uses 22 [1, 4].", {"net-tls"}, {"1", "2", "4"}),
    ],
)
def test_a_citation_of_another_form_is_one(answer: str, ids: set[str], absent: set[str]) -> None:
    assert cited(answer, ids) == (set(), absent)


@pytest.mark.parametrize(
    ("answer", "ids"),
    [
        ("[T1059] x [1.2]", {"T1059", "1"}),
        ("The keys are [log.level] and [tls:ca].", {"log", "tls"}),
        ("It was so [2021] and [1999].", {"1", "200"}),
        ("Ports go up to [65535].", {"1", "2"}),
        ("So it is [Document 2] and [Doc. 1].", {"1", "2"}),
        ("So it is [Document 2].", {"doc-02"}),
        ("Take `a[3]`. Or a[3]. Or ```\nx. [3]\n```", {"net-tls"}),
        ("It returns [3]. The first is [1].", {"net-tls"}),
        ("HTTPS uses 443 [1].\n\n[1] https://a.b/c", {"net-tls"}),
        ("HTTPS uses 443 [1].\n\nSources: [1]: https://a.b/c", {"net-tls"}),
        ("HTTPS uses 443 [net-tls] [3].", {"net-tls"}),
        ("So [sic] it is [x]. In [2021] too.", {"net-tls"}),
        ("So it is [3].", set[str]()),
    ],
)
def test_what_only_looks_like_a_citation_of_another_form(answer: str, ids: set[str]) -> None:
    assert cited(answer, ids)[1] == set()
