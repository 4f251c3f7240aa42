"""The port that a job's ranks meet at."""

import socket

from launch.preflight.probe import FIRST_PORT, PORTS, free_port, meeting_port


def test_jobs_that_share_a_node_and_exchanges_of_one_job_meet_apart() -> None:
    jobs = [meeting_port(number) for number in range(1000, 2000)]
    assert len(set(jobs)) == 1000
    assert len({meeting_port(1000, number) for number in range(5)}) == 5
    assert all(FIRST_PORT <= port < FIRST_PORT + PORTS for port in (*jobs, meeting_port(2**31 - 1, 9)))


def test_a_port_that_is_taken_is_passed_over() -> None:
    with socket.socket() as first, socket.socket(socket.AF_INET6) as second:
        first.bind(("", meeting_port(77)))
        second.bind(("::", meeting_port(77) + 1))  # as torch's store listens, for IPv4 too
        second.listen()
        assert free_port(77) == meeting_port(77) + 2


def test_after_the_last_port_comes_the_first() -> None:
    job = next(number for number in range(PORTS) if meeting_port(number) == FIRST_PORT + PORTS - 1)
    with socket.socket() as taken:
        taken.bind(("", meeting_port(job)))
        assert free_port(job) == FIRST_PORT
