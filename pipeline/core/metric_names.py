"""How numbers are called: each extractor's distances have names of their own, so that none passes for another."""


def distance_name(extractor: str, unknown: str = "") -> str:
    """What the Fréchet distance under an extractor is called; `unknown`: the sha256 of weights other than the known.

    >>> distance_name("inception"), distance_name("inception_tf"), distance_name("net")
    ('fid', 'fid_tf', 'fd_net')
    >>> distance_name("inception_tf", "0123456789"), distance_name("net", "0123456789")
    ('fd_inception_01234567_tf', 'fd_net_01234567')
    """
    network = "inception" if extractor.startswith("inception") else extractor
    protocol = extractor.removeprefix(network)
    if unknown:
        return f"fd_{network}_{unknown[:8]}{protocol}"
    return f"fid{protocol}" if network == "inception" else f"fd_{network}"


def kernel_name(metric: str) -> str:
    """What the kernel distance is called where the Fréchet distance is called `metric`.

    >>> kernel_name("fid"), kernel_name("fid_tf"), kernel_name("fd_net")
    ('kid', 'kid_tf', 'kd_net')
    """
    return f"k{metric.removeprefix('f')}"


def monge_name(metric: str) -> str:
    """What the Monge distance is called where the Fréchet distance is called `metric`.

    >>> monge_name("fid"), monge_name("fid_tf"), monge_name("fd_net")
    ('mind', 'mind_tf', 'md_net')
    """
    return f"min{metric.removeprefix('fi')}" if metric.startswith("fid") else f"m{metric.removeprefix('f')}"


def further_name(key: str, extractor: str, metric: str) -> str:
    """What a metric is called that is measured by a further extractor, whose Fréchet distance is called `metric`.

    >>> [further_name(key, "net", "fd_net") for key in ("kd_net", "md_net", "fd_net_infinity", "recall")]
    ['kd_net', 'md_net', 'fd_net_infinity', 'net/recall']
    """
    own = any(key == name or key.startswith(f"{name}_") for name in (metric, kernel_name(metric), monge_name(metric)))
    return key if own else f"{extractor}/{key}"
