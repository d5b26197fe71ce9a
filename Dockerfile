# A worker: docker compose --profile worker up --build
FROM python:3.12-slim

RUN useradd --create-home embver && install -d -o embver -g embver /home/embver/.cache
WORKDIR /opt/embver-pg
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY embver_pg ./embver_pg
COPY sql ./sql
COPY migrations ./migrations
RUN pip install --no-cache-dir -c constraints.txt '.[sentence-transformers,openai]'

USER embver
WORKDIR /home/embver
# exec form: SIGTERM reaches the worker, which finishes or gives back its lease
ENTRYPOINT ["embver"]
CMD ["worker"]
