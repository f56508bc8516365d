# The HTTP service, and the app in the stage before it. compose.yaml starts them, each in a file system that is read-only:
#     FER_NB_API_KEY=... docker compose up service        docker compose up app
# A proxy before the app has to pass on WebSockets and the Host header, whose name FER_NB_HOSTS=faces.example.com allows;
# cameras need HTTPS, which is the proxy's to give.
FROM python:3.12-slim AS base
RUN useradd --uid 1000 --create-home app
WORKDIR /home/app
ENV ORT_DISABLE_TELEMETRY=1

FROM base AS app
RUN --mount=type=bind,target=/src,rw \
    pip install --no-cache-dir -c /src/constraints.txt '/src[app]'
USER 1000
ENV STREAMLIT_SERVER_ADDRESS=0.0.0.0 STREAMLIT_SERVER_HEADLESS=true
EXPOSE 8501
HEALTHCHECK --start-period=30s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://localhost:8501/_stcore/health')"]
CMD ["fer-nb", "app"]

FROM base AS service
RUN --mount=type=bind,target=/src,rw \
    pip install --no-cache-dir -c /src/constraints.txt '/src[serve,video]'
USER 1000
EXPOSE 8000
HEALTHCHECK --start-period=30s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://localhost:8000/healthz')"]
CMD ["fer-nb", "serve", "--host", "0.0.0.0"]
