# monopose on the CPU, without CUDA:
#     docker build -t monopose . && docker run --rm -v "$PWD:/work" monopose predict photo.jpg --model runs/part --camera camera.json --save out
FROM python:3.12-slim
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install --no-cache-dir "/src[pretrained]" && rm -r /src && useradd --create-home monopose
USER monopose
ENV OMP_WAIT_POLICY=PASSIVE
WORKDIR /work
ENTRYPOINT ["monopose"]
CMD ["demo", "--out", "/tmp/demo"]
