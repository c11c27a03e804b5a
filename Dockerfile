# docker build -t dreamer .
# docker run --rm -it -v dreamer-runs:/runs dreamer train --task dmc:cartpole_balance
#
# TORCH_INDEX is one more package index to take torch from. Left empty, the image gets the default build, which brings
# CUDA on x86-64 (run it with --gpus all). For an image 3 GB smaller give the CPU index that PyTorch's installation
# page lists: docker build --build-arg TORCH_INDEX=ADDRESS -t dreamer .
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1

# EGL with OpenGL, or OSMesa, draws videos without a screen. The agent tries both and takes the one that works.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libegl1 libgl1 libosmesa6 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY dreamer dreamer
COPY envs envs

# Constraints do not reach an isolated build, so the pinned setuptools is installed first and builds without isolation.
RUN pip install -c constraints.txt setuptools \
    && pip install -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
       --no-build-isolation ".[tensorboard]"

RUN useradd --create-home dreamer && mkdir /runs && chown dreamer:dreamer /runs
USER dreamer

# `dreamer` makes its run folders in ./runs of the folder it starts in.
WORKDIR /runs
VOLUME /runs

ENTRYPOINT ["dreamer"]
CMD ["train", "--help"]
