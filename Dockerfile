# The app in a container:  docker build -t fer_nb . && docker run --rm -p 8501:8501 --shm-size 1g fer_nb
# A proxy before it has to pass on WebSockets and the Host header; cameras need HTTPS, which is the proxy's to give.
FROM python:3.11-slim

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home app
RUN --mount=type=bind,target=/src,rw \
    pip install --no-cache-dir -c /src/constraints.txt '/src[app]'
USER 1000
WORKDIR /home/app

ENV STREAMLIT_SERVER_ADDRESS=0.0.0.0 STREAMLIT_SERVER_HEADLESS=true ORT_DISABLE_TELEMETRY=1
EXPOSE 8501
HEALTHCHECK --start-period=30s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://localhost:8501/_stcore/health')"]
CMD ["fer-nb", "app"]
