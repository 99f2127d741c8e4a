"""What people met when they used the library, case by case. ``python -m tests.cases`` (``make cases``) says how many hold.

A case is a line of ``cases.toml``; it stands for a kind of fault. The tests lie beside what they test and name their case by a mark::

    @pytest.mark.case("C1")
    def test_adapters_go_on(): ...

A row needs the row's own input and at least two siblings of the same kind.
"""
