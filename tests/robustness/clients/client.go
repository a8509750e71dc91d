// Sends a photo as a form, as Go's default client does.
package main

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
)

func main() {
	photo, err := os.ReadFile(os.Args[2])
	if err != nil {
		panic(err)
	}
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, _ := form.CreateFormFile("file", "dog.jpg")
	part.Write(photo)
	form.Close()
	answer, err := http.Post(os.Args[1], form.FormDataContentType(), &body)
	if err != nil {
		panic(err)
	}
	text, _ := io.ReadAll(answer.Body)
	fmt.Println(answer.StatusCode, string(text))
}
