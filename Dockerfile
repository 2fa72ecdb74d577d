# docker build -t gan-pipeline .                              PyTorch for CUDA, as pip installs it: about 6 GB
# docker build -t gan-pipeline --build-arg TORCH=cpu .        PyTorch for CPUs only
FROM python:3.11-slim-bookworm
ARG TORCH=cuda
ARG EXTRA=

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update \
 && apt-get install -y --no-install-recommends git=1:2.39.* make=4.3-* \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 gan

WORKDIR /home/gan/code
COPY requirements.txt ./
# A build for CPUs has a local version, 2.9.0+cpu, which pip prefers to plain 2.9.0.
RUN if [ "$TORCH" = cpu ]; then export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu; fi \
 && pip install --no-cache-dir -r requirements.txt $EXTRA

# The code belongs to root, so that nothing which runs here can change it. DVC works in /work, a volume.
COPY --chmod=a+rX . ./
RUN pip install --no-cache-dir --no-deps . && mkdir /work && chown gan:gan /work

USER 1000
ENV MLFLOW_DISABLE_TELEMETRY=true PYTHONUNBUFFERED=1
WORKDIR /work
VOLUME /work
ENTRYPOINT ["/home/gan/code/docker/entrypoint.sh"]
CMD ["dvc", "repro"]
