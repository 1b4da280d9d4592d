"""The command line, with workers of one stage that come to grief. To be run as a program; FAULTY says what happens."""

from faults.faulty_workers import plan, use_faulty_workers

from sspruning.cli import main

if __name__ == "__main__":
    use_faulty_workers(plan()["stage"])
    main()
