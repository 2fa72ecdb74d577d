"""How numbers are called: each extractor's distances have names of their own, so that none passes for another."""

CLIP = "clip_vitl14_336"  # the extractor whose features CMMD is defined on


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


def cmmd_name(metric: str) -> str:
    """What CMMD is called where the Fréchet distance is called `metric`: its features are CLIP's, or of other weights.

    >>> cmmd_name("fd_clip_vitl14_336"), cmmd_name("fd_clip_vitl14_336_01234567"), cmmd_name("fid")
    ('cmmd', 'cmmd_01234567', 'cmmd')
    """
    return f"cmmd{metric.removeprefix(f'fd_{CLIP}')}" if metric.startswith(f"fd_{CLIP}") else "cmmd"


def further_name(key: str, extractor: str, metric: str) -> str:
    """What a metric is called that is measured by a further extractor, whose Fréchet distance is called `metric`.

    >>> [further_name(key, "net", "fd_net") for key in ("kd_net", "md_net", "fd_net_infinity", "recall")]
    ['kd_net', 'md_net', 'fd_net_infinity', 'net/recall']
    """
    names = [metric, kernel_name(metric), monge_name(metric)]
    if extractor == CLIP:
        names.append(cmmd_name(metric))
    own = any(key == name or key.startswith(f"{name}_") for name in names)
    return key if own else f"{extractor}/{key}"
