# nnunet-bridge with the page and the CPU engine; runs as a user, not as root.
#   docker build -t nnunet-bridge .
#   docker run --rm -v "$PWD":/data --shm-size=8g nnunet-bridge demo /data/demo
# With a GPU add --gpus all. The files belong to user 1000: add --user "$(id -u)" for yours.
FROM python:3.11-slim
# torch.compile needs a C compiler on a GPU.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY nnunet_bridge /src/nnunet_bridge
COPY datasets /src/datasets
RUN pip install --no-cache-dir --constraint /src/constraints.txt "/src[gui,cpu]" \
    && useradd --create-home --uid 1000 bridge
USER bridge
ENV HOME=/tmp
WORKDIR /data
ENTRYPOINT ["nnunet-bridge"]
CMD ["--help"]
